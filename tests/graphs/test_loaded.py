"""Models from a graph and a checkpoint: without their class, and what is said when the two do not fit."""

import os
import random

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import milepost
from milepost import MilepostError, export, load_model, save_checkpoint
from milepost.errors import CheckpointNotFoundError, GraphError, MismatchError, MissingExtraError, SettingError
from milepost.graphs import graph_meta


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Embedding(11, 8), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))


NETWORKS = {
    "mlp": lambda batch: (torch.randn(batch, 6),),
    "lenet": lambda batch: (torch.randn(batch, 1, 8, 8),),
    "transformer": lambda batch: (torch.randint(11, (batch, 5)),),
}


@pytest.fixture
def run_of(networks, tmp_path):
    """A trained network, its graph, and a checkpoint: `run_of("mlp")`."""

    def run_of(kind):
        net = transformer() if kind == "transformer" else networks[kind]()
        networks["settle"](net, NETWORKS[kind](4))
        (tmp_path / "net-graph.meta").write_bytes(graph_meta(net, NETWORKS[kind](4), metadata={"run": "1"}))
        return net, tmp_path / "net-graph.meta", save_checkpoint(net, tmp_path / "net.ckpt")

    return run_of


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_model_is_its_graph_and_a_checkpoint(run_of, networks, kind):
    """Of any moment of the run, for batches of any size, and equal to the module in eval mode."""
    net, meta, _ = run_of(kind)
    networks["settle"](net.train(), NETWORKS[kind](4))
    later = save_checkpoint(net, meta.with_name("later.ckpt"))
    model = load_model(meta, str(later))
    file = export(meta, later, file_name=meta.with_name("net.onnx"))
    net.eval()
    for batch in (1, 4, 7):
        inputs = NETWORKS[kind](batch)
        wanted = net(*inputs).detach()
        assert_close(model(*inputs), wanted)
        assert_close(model(*(tensor.numpy() for tensor in inputs)), wanted)
    proto = onnx.load(file)
    assert [value.name for value in proto.graph.input] == model.input_names
    assert [value.name for value in proto.graph.output] == model.output_names
    onnx.checker.check_model(proto, full_check=True)


def test_several_results_are_a_tuple(tmp_path):
    """As of the module; one of them is one tensor."""

    class Two(nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    (tmp_path / "two.meta").write_bytes(graph_meta(Two(), torch.zeros(2, 3)))
    model = load_model(tmp_path / "two.meta", save_checkpoint({"unused": torch.zeros(1)}, tmp_path / "two"))
    first, second = model(np.ones((5, 3), np.float32))
    assert torch.equal(first, torch.full((5, 3), 2.0))
    assert torch.equal(second, torch.full((5, 3), 2.0))
    assert len(model.output_names) == 2


def test_the_file_says_which_checkpoint_it_was_made_of(tmp_path):
    """With epoch and step, and what the graph said of its run."""
    config = milepost.CheckpointConfig(save_checkpoint_steps=2, keep_checkpoint_max=5)
    model = milepost.Model(net := nn.Linear(3, 1), nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))
    batches = [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(4)]
    saver = milepost.ModelCheckpoint("net", tmp_path, config)
    model.train(1, batches, callbacks=[saver])
    path = export(tmp_path / "net-graph.meta", tmp_path / "net-1_2.ckpt", file_name=tmp_path / "net.onnx")
    facts = {line.key: line.value for line in onnx.load(path).metadata_props}
    assert (
        facts.items()
        >= {
            "checkpoint": "net-1_2.ckpt",
            "epoch": "1",
            "step": "2",
            "model": "Linear",
            "prefix": "net",
            "run": "1",
            "kind": "graph with weights",
            "milepost": milepost.__version__,
        }.items()
    )
    assert load_model(tmp_path / "net-graph.meta", tmp_path / "net-1_4.ckpt").metadata["step"] == "4"


def test_all_that_does_not_fit_is_listed(run_of, tmp_path):
    """Names, shapes and dtypes; no file is written."""
    net, meta, _ = run_of("mlp")
    weights = dict(net.state_dict())
    del weights["0.bias"]
    weights["2.weight"] = torch.zeros(4, 8)
    weights["2.bias"] = weights["2.bias"].double()
    wrong = save_checkpoint(weights, tmp_path / "wrong.ckpt")
    before = set(os.listdir(tmp_path))
    told = r"3 of 4 .*0\.bias is missing; 2\.weight has shape \(4, 8\) instead of \(3, 8\); 2\.bias is of DOUBLE"
    for use in (load_model, lambda *paths: export(*paths, file_name=tmp_path / "net.onnx")):
        with pytest.raises(MismatchError, match=told):
            use(meta, wrong)
    assert set(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("inputs", [(), (torch.zeros(2, 7),), (torch.zeros(2, 6).double(),), (torch.zeros(2, 6),) * 2])
def test_inputs_that_the_graph_does_not_take_are_refused(run_of, inputs):
    """With what it takes."""
    _, meta, checkpoint = run_of("mlp")
    with pytest.raises(GraphError, match=r"inputs of the graph are input: tensor\(float\) \['batch', 6\]"):
        load_model(meta, checkpoint)(*inputs)


def test_a_damaged_graph_is_an_error_of_milepost(run_of):
    """Never one of protobuf, nor of onnx: cut, flipped, empty or something else."""
    _, meta, checkpoint = run_of("mlp")
    whole = meta.read_bytes()
    chance = random.Random(0)
    damaged = [b"", whole[: len(whole) // 2], whole[:-1], checkpoint.read_bytes(), bytes(range(256))]
    for _ in range(300):
        content = bytearray(whole)
        content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(content))
    for content in damaged:
        meta.write_bytes(content)
        try:
            load_model(meta, checkpoint)(torch.zeros(1, 6))
        except MilepostError:
            continue  # the only kind of error; a name that is only for people may be flipped without one


def test_paths_that_lead_nowhere_are_refused(run_of, tmp_path):
    """Each file by its own name."""
    _, meta, checkpoint = run_of("mlp")
    with pytest.raises(CheckpointNotFoundError, match=r"none\.meta"):
        load_model(tmp_path / "none.meta", checkpoint)
    with pytest.raises(CheckpointNotFoundError, match=r"none\.ckpt"):
        load_model(meta, tmp_path / "none.ckpt")
    with pytest.raises(SettingError, match="the paths of a -graph.meta"):
        load_model(nn.Linear(3, 2), checkpoint)


@pytest.mark.parametrize(
    ("inputs", "settings"),
    [((), {}), ((torch.zeros(1, 6),), {}), (("net.ckpt",), {"opset": 18}), (("net.ckpt",), {"file_format": "PT2"})],
)
def test_an_export_from_a_graph_takes_a_checkpoint_and_nothing_else(tmp_path, inputs, settings):
    """Names, opset and shapes are those of the graph."""
    with pytest.raises(SettingError, match=r"export\(meta_path, ckpt_path, file_name=\.\.\.\)"):
        export("net-graph.meta", *inputs, file_name=tmp_path / "net", **settings)


def test_weights_too_large_for_one_file_stand_beside_it(run_of, monkeypatch):
    """And a model of them runs as any other."""
    net, meta, checkpoint = run_of("lenet")
    monkeypatch.setattr("milepost.graphs.onnx_file.ONE_FILE", 1000)
    path = export(meta, checkpoint, file_name=meta.with_name("net.onnx"))
    assert path.with_name("net.onnx.data").is_file()
    onnx.checker.check_model(str(path), full_check=True)
    (image,) = NETWORKS["lenet"](3)
    wanted = net.eval()(image).detach()
    assert_close(load_model(meta, checkpoint)(image), wanted)
    session = __import__("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert_close(torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), wanted)


def test_a_missing_runtime_names_the_extra(tmp_path, monkeypatch):
    """Before any file is looked at."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"milepost\[onnx\]"):
        load_model(tmp_path / "none", tmp_path / "none")
