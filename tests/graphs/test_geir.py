"""GEIR files: what they hold and what they compute, judged by an interpreter, by GE's rules, and by the prototypes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tests.graphs import calls, zoo
from tests.graphs.calls import IMAGE, Fn, X
from torch import nn

from milepost.errors import CheckpointNotFoundError, GraphError, MissingExtraError, SettingError
from milepost.graphs import export, geir
from milepost.graphs.geir.checker import problems
from milepost.graphs.geir.reader import parse

SETS = ("current", "2020")


def encoded(net, inputs, operators="current", **settings):
    return b"".join(geir.encode(net, inputs, operators=operators, **settings))


def checked(net, inputs, traced, operators):
    """What `encode` does after tracing, with the rules of GE's loaders; returns the file."""
    pieces = geir.pieces_of(traced, operators)
    geir.check(pieces, traced, net, inputs)
    content = b"".join(pieces.contents())
    assert problems(content, operators) == []
    return content


def assert_same(net, content, inputs):
    """The file computes what the module does, to 1e-5 of the largest value, also on other values than the example's."""
    with torch.no_grad():
        wanted = net.eval()(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    found = geir.run(parse(content, "test"), inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("operators", SETS)
@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_network_of_the_zoo_is_computed_by_its_file(name, operators):
    """For both sets of operators, by the rules of GE's loaders."""
    net, inputs, traced = zoo.traced(name)
    content = checked(net, inputs, traced, operators)
    assert_same(net, content, tuple(tensor.flip(0) for tensor in inputs))


@pytest.mark.parametrize("name", ["mlp", "resnet", "bert", "gpt", "vit"])
def test_the_weights_of_a_file_are_the_modules_bytes(name):
    """Under the names of the state dict, each once."""
    net, _, traced = zoo.traced(name)
    weights = parse(b"".join(geir.pieces_of(traced, "current").contents()), "test").weights
    shared = {id(tensor): key for key, tensor in reversed(net.state_dict(keep_vars=True).items())}
    for key, tensor in net.state_dict(keep_vars=True).items():
        if key.endswith("num_batches_tracked"):
            assert key not in weights
        else:
            assert torch.equal(weights[shared[id(tensor)]], tensor)
            assert (key in weights) == (shared[id(tensor)] == key)


def test_resnet_50_has_one_op_for_each_layer():
    """As many as the paper counts, and nothing between them."""
    net, _, traced = zoo.resnet50()
    graph = parse(b"".join(geir.pieces_of(traced, "current").contents()), "test")
    counts = {"Conv2D": 53, "BatchNorm": 53, "Relu": 49, "Add": 16, "MaxPoolV3": 1, "ReduceMeanD": 1, "MatMulV2": 1}
    around = {"Data": 1, "NetOutput": 1, "Reshape": 1, "Const": 267 + 1}
    assert graph.counts == {**counts, **around}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(graph.weights[name], tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_network_of_another_element_type_is_exported(dtype):
    """Its weights keep their bits."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 3)
    )
    net = net.to(dtype)
    content = encoded(net, (torch.randn(2, 3, 4, 4, dtype=dtype),))
    assert problems(content) == []
    for name, tensor in parse(content, "test").weights.items():
        assert name == "const" or torch.equal(tensor, net.state_dict()[name])


@pytest.mark.parametrize("operators", SETS)
@pytest.mark.parametrize("name", calls.CALLS)
def test_a_call_is_computed_by_its_file(name, operators):
    """One by one, where a network would hide which one is wrong."""
    checked(*calls.traced(name), operators)


def test_means_without_the_padding_need_the_current_operators():
    """The Pooling of 2020 always counts it."""
    net = nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False))
    assert problems(encoded(net, (IMAGE,))) == []
    with pytest.raises(GraphError, match=r"0 \(AvgPool2d\): aten\.avg_pool2d\.default \(average pooling with count"):
        encoded(net, (IMAGE,), "2020")


def test_every_unsupported_operator_is_listed_with_its_place():
    """Not just the first; those that the format cannot express in this form say why."""
    net = nn.Sequential()
    net.add_module(
        "body", nn.Sequential(nn.Linear(4, 4), Fn(torch.lgamma), nn.ReLU(), Fn(lambda x: torch.cumprod(x, 0)))
    )
    net.add_module("pool", nn.MaxPool2d(2, dilation=2))
    with pytest.raises(GraphError) as caught:
        encoded(net, (torch.zeros(1, 2, 4, 4),))
    told = caught.value.found
    assert told.startswith("operators that GEIR cannot express (3)")
    assert "body.1 (Fn): aten.lgamma.default" in told
    assert "body.3 (Fn): aten.cumprod.default" in told
    assert "pool (MaxPool2d): aten.max_pool2d.default (max pooling with a dilation)" in told


def test_an_unknown_set_of_operators_is_refused():
    """The two are named."""
    with pytest.raises(SettingError, match="'current' or '2020'"):
        encoded(nn.ReLU(), (X,), "2021")


def test_two_exports_of_one_network_are_equal():
    """To the byte."""
    net, inputs = zoo.make("vit")
    assert encoded(net, inputs) == encoded(net, inputs, verify=False)


def test_the_module_is_as_before():
    """Also one in training, with a lock, hooks, and gradients."""
    net, inputs = zoo.make("mobilenet v3")
    net.train().lock = threading.Lock()
    net.head[1].register_forward_hook(lambda module, inputs, output: None)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random = torch.get_rng_state()
    encoded(net, inputs)
    assert all(module.training for module in net.modules())
    assert len(net.head[1]._forward_hooks) == 1
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_file_that_would_compute_something_else_is_refused():
    """A hook that changes the result is not in the graph."""
    net = nn.Sequential(nn.Linear(4, 2))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(GraphError, match=r"result 0 .* Hooks are not exported, and 0 has some"):
        encoded(net, (X,))


@pytest.mark.parametrize("file_format", ["GEIR", "AIR"])
def test_export_writes_a_geir_file(tmp_path, file_format):
    """Under either of its names; tools take the suffix .air only."""
    net, inputs = zoo.make("bert")
    path = export(net, *inputs, file_name=tmp_path / "bert", file_format=file_format, operators="2020")
    assert path == tmp_path / "bert.air"
    assert path.read_bytes() == encoded(net, inputs, "2020")


def test_export_writes_nothing_where_an_operator_is_missing(tmp_path):
    """Neither the file nor a part of it."""
    with pytest.raises(GraphError, match=r"operators that GEIR cannot express \(1\)"):
        export(Fn(torch.lgamma), X, file_name=tmp_path / "net.air", file_format="GEIR")
    assert os.listdir(tmp_path) == []


def test_settings_of_other_formats_are_refused(tmp_path):
    """In both directions."""
    for file_format, setting in (("GEIR", {"opset": 18}), ("ONNX", {"operators": "2020"})):
        with pytest.raises(SettingError, match=next(iter(setting))):
            export(nn.ReLU(), X, file_name=tmp_path / "net", file_format=file_format, **setting)


def test_a_loaded_file_is_readable(tmp_path):
    """Line by line, with names that people gave."""
    net, inputs = zoo.make("mlp")
    path = tmp_path / "mlp.air"
    path.write_bytes(encoded(net, inputs))
    graph = geir.load(path)
    lines = str(graph).splitlines()
    assert lines[0] == "input = Data() index=0 -> float32[4, 6]"
    assert lines[-1] == "Node_Output = NetOutput(5/MatMulV2:0) -> "
    assert "1/Tanh = Tanh(0/MatMulV2:0) -> float32[4, 8]" in lines
    assert [op.name for op in graph.inputs] == ["input"]


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, b"not a graph", b"\x0a\x01x"])
def test_what_is_no_geir_file_is_refused(tmp_path, content):
    """With its name."""
    path = tmp_path / "net.air"
    path.write_bytes(content)
    with pytest.raises(GraphError, match=r"net\.air"):
        geir.load(path)
    with pytest.raises(CheckpointNotFoundError):
        geir.load(tmp_path / "other.air")


def test_inputs_that_do_not_fit_are_refused():
    """Before anything is computed from them."""
    net, inputs = zoo.make("mlp")
    graph = parse(encoded(net, inputs), "test")
    with pytest.raises(GraphError, match="2 inputs"):
        geir.run(graph, (*inputs, *inputs))
    with pytest.raises(GraphError, match="'input'"):
        geir.run(graph, (torch.zeros(5, 6),))


def test_a_missing_protobuf_is_told_by_its_extra():
    """In a process that has none."""
    code = (
        "import sys; sys.modules['google.protobuf'] = None\n"
        "import torch\nfrom milepost.graphs import geir\n"
        "try: geir.encode(torch.nn.ReLU(), (torch.zeros(1),))\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(MissingExtraError.__name__)
    assert "milepost[geir]" in done.stdout


@pytest.fixture(scope="module")
def ge_schema():
    """The module of the torch-npu wheel, where it was fetched (`make .venv-ge/.installed`)."""
    root = Path(__file__).parents[2]
    path = Path(os.environ.get("MILEPOST_GE_SCHEMA", root / ".venv-ge" / "ge_ir_by_protoc_3_19_pb2.py"))
    if not path.exists():
        reason = f"no schema of Huawei's at {path}; see tests/judges/ge-requirements.txt"
        # `make test-slow` fetches it, and CI must have it; a bare pytest without network still judges all else.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return path


@pytest.mark.slow
def test_huaweis_own_schema_reads_every_file(ge_schema, tmp_path):
    """In a process of its own, without one unknown byte, and the same as Milepost's reader does."""
    paths, graphs = [], []
    for name in zoo.ZOO:
        _, _, traced = zoo.traced(name)
        paths.append(tmp_path / f"{name}.air")
        paths[-1].write_bytes(b"".join(geir.pieces_of(traced, "current").contents()))
        graphs.append(geir.load(paths[-1]))
    reader = Path(__file__).parents[1] / "judges" / "read_with_ge_schema.py"
    done = subprocess.run([sys.executable, reader, ge_schema, *paths], check=True, capture_output=True, text=True)
    for found, graph in zip(json.loads(done.stdout), graphs, strict=True):
        assert found["unknown"] == 0
        assert found["types"] == [op.type for op in graph.ops]
        assert found["outputs"] == [f"{name}:{index}" for name, index in graph.outputs]
        assert found["strides"] == {op.name: op.attributes["strides"] for op in graph.ops if "strides" in op.attributes}
        assert {name: weight[0] for name, weight in found["weights"].items()} == {
            name: list(tensor.shape) for name, tensor in graph.weights.items()
        }


@pytest.mark.slow
def test_an_export_needs_less_than_twice_the_weights_memory(tmp_path):
    """Above the module's own: the file is a list of pieces, and is read back op by op."""
    code = (
        "import resource, sys, torch\nfrom torch import nn\n"
        "from milepost.graphs import geir\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "geir.encode(nn.Linear(2, 2), (torch.zeros(1, 2),))\n"
        "net = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(12)))\n"
        "before = peak()\n"
        "with open(sys.argv[1], 'wb') as file:\n"
        "    file.writelines(geir.encode(net, (torch.zeros(1, 2048),)))\n"
        "print((peak() - before) / sum(weight.nbytes for weight in net.parameters()))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "net.air"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout) < 2
