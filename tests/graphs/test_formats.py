import json
import os
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import milepost
from milepost.errors import GraphError, MilepostError, MissingExtraError, SaveError, SettingError
from milepost.graphs import export, geir, mindir
from milepost.graphs.formats import FORMATS


def test_an_onnx_file_computes_what_the_module_computes(networks, assert_computes, tmp_path):
    """With its weights, for other batches than the example's, in one file."""
    net = networks["settle"](networks["lenet"](), (torch.randn(4, 1, 8, 8),))
    path = export(net, np.zeros((2, 1, 8, 8), np.float32), file_name=tmp_path / "lenet.onnx", file_format="ONNX")
    assert os.listdir(tmp_path) == ["lenet.onnx"]
    proto = onnx.load(path)
    assert_computes(proto, net, torch.randn(5, 1, 8, 8))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(weights[name], tensor)


def test_the_module_is_as_before_an_export(networks, tmp_path):
    """Training mode, and the buffers that a call changes."""
    net = networks["tied"]().train()
    export(net, torch.randint(11, (2, 5)), file_name=str(tmp_path / "tied"), file_format="ONNX")
    assert net.training
    assert net.calls == 0


def test_an_input_that_forward_overwrites_is_left_alone(tmp_path):
    """The example belongs to the caller."""
    x = torch.full((2, 3), -1.0)
    export(nn.ReLU(inplace=True), x, file_name=tmp_path / "relu.onnx", file_format="ONNX")
    assert torch.equal(x, torch.full((2, 3), -1.0))


@pytest.mark.parametrize(("given", "written"), [("net", "net.onnx"), ("net-1_2", "net-1_2.onnx"), ("net.onnx",) * 2])
def test_the_file_gets_its_name_and_a_missing_suffix(tmp_path, given, written):
    """The path that was written is returned."""
    assert export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / given, file_format="ONNX") == tmp_path / written
    assert os.listdir(tmp_path) == [written]


def test_another_suffix_is_kept_with_a_hint(tmp_path):
    """The name is the user's; tools may want another."""
    with pytest.warns(UserWarning, match=r"net\.pb: tools know ONNX files by the suffix \.onnx"):
        path = export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "net.pb", file_format="ONNX")
    assert path == tmp_path / "net.pb"
    assert path.is_file()


@pytest.mark.parametrize("file_format", ["onnx", "TFLITE", "", 3])
def test_formats_that_this_version_does_not_write_are_refused(tmp_path, file_format):
    """Those that it writes are listed."""
    with pytest.raises(SettingError, match="expected one of .*: ONNX, GEIR, AIR, MINDIR, PT2"):
        export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "net", file_format=file_format)
    assert os.listdir(tmp_path) == []


READERS = {
    "ONNX": lambda path: onnx.checker.check_model(str(path)),
    "GEIR": geir.load,
    "MINDIR": lambda path: mindir.parse(path.read_bytes(), path.name),
    "PT2": torch.export.load,
}


@pytest.mark.parametrize(
    ("name", "written", "file_format"),
    [
        ("net.onnx", "net.onnx", "ONNX"),
        ("net.AIR", "net.AIR", "GEIR"),
        ("net.mindir", "net.mindir", "MINDIR"),
        ("net.pt2", "net.pt2", "PT2"),
        ("net", "net.air", "GEIR"),
    ],
)
def test_without_a_format_the_suffix_decides(tmp_path, name, written, file_format):
    """And where there is none, it is the tutorial's GEIR."""
    assert export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / name) == tmp_path / written
    READERS[file_format](tmp_path / written)


@pytest.mark.parametrize("name", ["net.pb", "net-1_2.5"])
def test_a_suffix_that_says_nothing_is_kept_as_the_tutorials_is(tmp_path, name):
    """In the tutorial GEIR files end in .pb, which is kept with a hint like any other."""
    with pytest.warns(UserWarning, match=r"tools know GEIR files by the suffix \.air"):
        READERS["GEIR"](export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / name))


def test_a_file_that_would_compute_something_else_is_not_written(tmp_path):
    """A hook that changes the result is not in the graph; the check finds out."""
    net = nn.Sequential(nn.Linear(3, 2))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(GraphError, match=r"result 0 .* Hooks are not exported, and 0 has some"):
        export(net, torch.zeros(1, 3), file_name=tmp_path / "net.onnx", file_format="ONNX")
    assert os.listdir(tmp_path) == []


def test_a_file_that_onnxruntime_cannot_run_is_not_written(tmp_path):
    """bfloat16 has no kernels there."""
    with pytest.raises(GraphError, match="onnxruntime does not run"):
        export(
            nn.Linear(3, 2).bfloat16(),
            torch.zeros(1, 3).bfloat16(),
            file_name=tmp_path / "net.onnx",
            file_format="ONNX",
        )
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_replaced_only_by_a_whole_one(tmp_path):
    """A failure leaves it as it was."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    with pytest.raises(GraphError):
        export(nn.Linear(3, 2), None, file_name=path, file_format="ONNX")
    assert path.read_bytes() == b"before"
    export(nn.Linear(3, 2), torch.zeros(1, 3), file_name=path, file_format="ONNX")
    onnx.checker.check_model(onnx.load(path))


def test_a_place_that_cannot_be_written_is_a_save_error(tmp_path):
    """With the reason of the system."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SaveError):
        export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "file" / "net.onnx", file_format="ONNX")


def test_a_missing_runtime_names_the_extra(tmp_path, monkeypatch):
    """An unchecked file is not written."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"no package 'onnxruntime'.*milepost\[onnx\]"):
        export(nn.ReLU(), torch.zeros(1, 2), file_name=tmp_path / "net.onnx", file_format="ONNX")


def assert_untouched(net, before, gradient):
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(next(net.parameters()).grad, gradient)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_as_before_in_every_format(networks, tmp_path, capfd, file_format, fails):
    """Mode, parameters, buffers and gradients, also after a failure; and nothing is printed."""
    net = networks["settle"](networks["lenet"](), (torch.randn(4, 1, 8, 8),)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    gradient = next(net.parameters()).grad.clone()
    if fails:
        net.register_forward_hook(lambda module, inputs, output: output + 1)
        with pytest.raises(GraphError, match="result 0 of the exported graph is not the module's: off by"):
            export(net, torch.randn(2, 1, 8, 8), file_name=tmp_path / "net", file_format=file_format)
    else:
        export(net, torch.randn(2, 1, 8, 8), file_name=tmp_path / "net", file_format=file_format)
    assert_untouched(net, before, gradient)
    assert capfd.readouterr() == ("", "")
    assert os.listdir(tmp_path) == ([] if fails else ["net" + FORMATS[file_format].suffix])


def test_a_pt2_file_is_loaded_by_torch(networks, tmp_path):
    """And computes what the module does, for other batches."""
    net = networks["settle"](networks["lenet"](), (torch.randn(4, 1, 8, 8),)).eval()
    path = export(net, np.zeros((1, 1, 8, 8), np.float32), file_name=tmp_path / "net", file_format="PT2")
    loaded = torch.export.load(path).module()
    for batch in (1, 2, 5):
        image = torch.randn(batch, 1, 8, 8)
        torch.testing.assert_close(loaded(image), net(image))


def test_inputs_and_outputs_get_the_names_asked_for(networks, run, tmp_path):
    """Also one that a value inside has already, but none that a weight has."""
    settings = {"input_names": ["relu"], "output_names": ["logits"]}
    proto = onnx.load(export(networks["mlp"](), torch.zeros(2, 6), file_name=tmp_path / "net.onnx", **settings))
    assert [value.name for value in proto.graph.input] == ["relu"]
    assert [value.name for value in proto.graph.output] == ["logits"]
    assert run(proto, torch.zeros(3, 6))[0].shape == (3, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_names": []},
        {"input_names": ["a", "b"]},
        {"input_names": "x"},
        {"input_names": [""]},
        {"output_names": [1]},
        {"input_names": ["0.weight"]},
        {"input_names": ["x"], "output_names": ["x"]},
        {"opset": 20, "file_format": "PT2"},
        {"file_name": ""},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(networks, tmp_path, settings):
    """Before anything is written."""
    with pytest.raises(SettingError):
        export(networks["mlp"](), torch.zeros(2, 6), **{"file_name": tmp_path / "net.onnx", **settings})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("opset", [18, 22])
def test_the_file_has_the_opset_that_was_asked_for(networks, tmp_path, opset):
    """As it stands in the file."""
    path = export(networks["lenet"](), torch.zeros(2, 1, 8, 8), file_name=tmp_path / "net.onnx", opset=opset)
    assert {entry.domain: entry.version for entry in onnx.load(path).opset_import}[""] == opset


@pytest.mark.parametrize("opset", [1, 11, 99, "20"])
def test_an_opset_that_cannot_be_had_is_refused(networks, tmp_path, opset):
    """The exporter would take another one, and only log it."""
    with pytest.raises(MilepostError):
        export(networks["lenet"](), torch.zeros(2, 1, 8, 8), file_name=tmp_path / "net.onnx", opset=opset)
    assert os.listdir(tmp_path) == []


def test_free_dimensions_are_those_asked_for(networks, run, tmp_path):
    """None, or others than the batch."""
    settings = {"file_name": tmp_path / "net.onnx"}
    fixed = onnx.load(export(networks["mlp"](), torch.zeros(2, 6), dynamic_shapes={}, **settings))
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 6]
    both = {"input": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    proto = onnx.load(export(nn.ReLU(), torch.zeros(2, 6), dynamic_shapes=both, **settings))
    assert run(proto, torch.zeros(3, 4))[0].shape == (3, 4)


@pytest.mark.parametrize("file_format", ["ONNX", "PT2"])
def test_a_batch_that_the_network_pins_is_told(tmp_path, file_format):
    """It is fixed then; saying so beforehand is silent."""

    class Pinned(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3) + torch.arange(3)

    settings = {"file_name": tmp_path / "net", "file_format": file_format}
    with pytest.warns(UserWarning, match="Pinned works for one size of batch only, so it is fixed at 2"):
        export(Pinned(), torch.zeros(2, 3), **settings)
    export(Pinned(), torch.zeros(2, 3), dynamic_shapes={}, **settings)


def test_weights_too_large_for_one_file_stand_beside_it(networks, tmp_path, monkeypatch):
    """One protobuf message ends at 2 GiB; the graph finds its weights wherever both are moved to."""
    monkeypatch.setattr("milepost.graphs.onnx_file.ONE_FILE", 1000)
    net = networks["settle"](networks["lenet"](), (torch.randn(4, 1, 8, 8),)).eval()
    path = export(net, torch.zeros(2, 1, 8, 8), file_name=tmp_path / "before" / "net.onnx")
    path = (tmp_path / "before").rename(tmp_path / "after") / path.name
    assert sorted(os.listdir(tmp_path / "after")) == ["net.onnx", "net.onnx.data"]
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = torch.randn(3, 1, 8, 8)
    (found,) = session.run(None, {"image": image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), net(image).detach(), rtol=1e-5, atol=1e-5)
    # Without the weights among the graph's own bytes, it is as small as it looks.
    assert path.stat().st_size < 8_000


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_failure_of_forward_is_told_in_the_users_terms(tmp_path, file_format):
    """The line of the network, not of torch's exporter."""

    class Chooses(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    path = tmp_path / "net"
    path = path.with_suffix(FORMATS[file_format].suffix)
    path.write_bytes(b"before")
    with pytest.raises(GraphError, match=r"a decision that depends on .* in Chooses\.forward"):
        export(Chooses(), torch.zeros(2, 3), file_name=path, file_format=file_format)
    with pytest.raises(GraphError, match=r"in Linear\.forward"):
        export(nn.Linear(3, 2), torch.zeros(2, 5), file_name=path, file_format=file_format)
    assert path.read_bytes() == b"before"


def test_an_export_can_go_unverified(tmp_path, monkeypatch):
    """onnxruntime is not needed then, nor what it does not compute."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    path = export(
        nn.Linear(3, 2).bfloat16(), torch.zeros(1, 3).bfloat16(), file_name=tmp_path / "net.onnx", verify=False
    )
    onnx.checker.check_model(str(path))


def _onnx_facts(path):
    return {line.key: line.value for line in onnx.load(path).metadata_props}


def _mindir_facts(path):
    from milepost.graphs.mindir.schema import message

    return {entry.key: entry.value for entry in message("ModelProto").FromString(path.read_bytes()).user_info}


def _pt2_facts(path):
    told = {"milepost.json": ""}
    torch.export.load(path, extra_files=told)
    return json.loads(told["milepost.json"])


FACTS = {"onnx": _onnx_facts, "mindir": _mindir_facts, "pt2": _pt2_facts}


@pytest.mark.parametrize("suffix", FACTS)
def test_a_file_says_which_checkpoint_the_module_holds(tmp_path, suffix):
    """With its epoch and step; and nothing of it when the module was changed since."""
    net = nn.Linear(3, 1)
    config = milepost.CheckpointConfig(save_checkpoint_steps=2, keep_checkpoint_max=5)
    model = milepost.Model(net, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))
    batches = [(torch.randn(2, 3), torch.randn(2, 1)) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(1, batches, callbacks=[milepost.ModelCheckpoint("net", tmp_path, config)])
    loaded = nn.Linear(3, 1)
    milepost.load_checkpoint(tmp_path / "net-1_2.ckpt", net=loaded)
    path = tmp_path / f"net.{suffix}"
    versions = {"model": "Linear", "torch": torch.__version__, "milepost": milepost.__version__}
    for module, step in ((net, "4"), (loaded, "2")):
        told = FACTS[suffix](export(module, torch.zeros(1, 3), file_name=path))
        assert told.items() >= {**versions, "checkpoint": f"net-1_{step}.ckpt", "epoch": "1", "step": step}.items()
    with torch.no_grad():
        loaded.weight.add_(1)
    assert "checkpoint" not in FACTS[suffix](export(loaded, torch.zeros(1, 3), file_name=path))
