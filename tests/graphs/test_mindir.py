"""MindIR files: what they hold and compute, by a reference interpreter (tests/judges has MindSpore itself)."""

import os
import subprocess
import sys

import pytest
import torch
from tests.graphs import calls, zoo
from tests.graphs.calls import IMAGE, Fn, X
from torch import nn
from torch.nn import functional

from milepost.errors import GraphError, MissingExtraError, SettingError
from milepost.graphs import export, mindir


def content_of(traced):
    return b"".join(mindir.pieces_of(traced).contents())


def checked(net, inputs, traced):
    """What `encode` does after tracing; returns the file as it is read back."""
    pieces = mindir.pieces_of(traced)
    mindir.check(pieces, traced, net, inputs)
    return mindir.parse(b"".join(pieces.contents()), "test")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_network_of_the_zoo_is_computed_by_its_file(name):
    """As the module does, also on other values than the example's."""
    net, inputs, traced = zoo.traced(name)
    graph = checked(net, inputs, traced)
    other = tuple(tensor.flip(0) for tensor in inputs)
    with torch.no_grad():
        wanted = net(*other)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for one, another in zip(mindir.run(graph, other), wanted, strict=True):
        torch.testing.assert_close(one, another, rtol=0, atol=1e-5 * float(another.abs().max()))


@pytest.mark.parametrize("name", calls.CALLS)
def test_a_call_is_computed_by_its_file(name):
    """One by one, where a network would hide which one is wrong."""
    checked(*calls.traced(name))


@pytest.mark.parametrize("name", ["mlp", "resnet", "bert", "gpt", "vit"])
def test_the_weights_of_a_file_are_the_modules_bytes(name):
    """Under the names of the state dict, each once, and nothing else is a parameter."""
    net, _, traced = zoo.traced(name)
    names = {id(tensor): key for key, tensor in reversed(net.state_dict(keep_vars=True).items())}
    wanted = {key for key in names.values() if not key.endswith("num_batches_tracked")}
    weights = mindir.parse(content_of(traced), "test").weights
    assert weights.keys() == wanted
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in weights.items())


def test_resnet_50_has_one_primitive_for_each_layer():
    """As many as the paper counts; what is between them takes a result out of a tuple, or adds a bias."""
    net, _, traced = zoo.resnet50()
    graph = mindir.parse(content_of(traced), "test")
    layers = {"Conv2D": 53, "BatchNorm": 53, "ReLU": 49, "Add": 16, "MaxPool3D": 1, "ReduceMean": 1, "MatMul": 1}
    assert graph.counts == {**layers, "TupleGetItem": 53, "Reshape": 3, "BiasAdd": 1}
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(graph.weights[name], tensor)


POOLS = {
    "padded": lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "padded, rounded up": lambda x: functional.avg_pool2d(x, 3, 3, 1, ceil_mode=True, count_include_pad=False),
    "another divisor": lambda x: functional.avg_pool2d(x, (2, 3), (2, 1), divisor_override=5),
    "the last window begins outside": lambda x: functional.max_pool2d(x, 2, 3, 1, ceil_mode=True),
}


@pytest.mark.parametrize("name", POOLS)
def test_pooling_is_computed_by_its_file(name):
    """Also in ways that GEIR does not have."""
    checked(*calls.trace(Fn(POOLS[name]), (IMAGE,)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_element_type_is_exported(dtype):
    """Its weights keep their bits."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(140, 3))
    net, image = net.to(dtype).eval(), IMAGE.to(dtype)
    weights = mindir.parse(b"".join(mindir.encode(net, (image,))), "test").weights
    assert {tensor.dtype for tensor in weights.values()} == {dtype}
    assert torch.equal(weights["0.weight"], net[0].weight)


def test_every_unsupported_operator_is_listed_with_its_place(tmp_path):
    """Not just the first; and neither the file nor a part of it is written."""
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Linear(4, 4), Fn(torch.lgamma), Fn(lambda x: torch.cumprod(x, 0))))
    net.add_module("pool", nn.MaxPool2d(2, dilation=2))
    with pytest.raises(GraphError) as caught:
        export(net, torch.zeros(1, 2, 4, 4), file_name=tmp_path / "net.mindir")
    told = caught.value.found
    assert told.startswith("operators that MINDIR cannot express (3)")
    assert "body.1 (Fn): aten.lgamma.default" in told
    assert "body.2 (Fn): aten.cumprod.default" in told
    assert "pool (MaxPool2d): aten.max_pool2d.default (max pooling with a dilation)" in told
    assert os.listdir(tmp_path) == []


def test_a_file_that_would_compute_something_else_is_refused():
    """A hook that changes the result is not in the graph."""
    net = nn.Sequential(nn.Linear(4, 2))
    net[0].register_forward_hook(lambda module, inputs, output: output + 1)
    with pytest.raises(GraphError, match=r"result 0 .* Hooks are not exported, and 0 has some"):
        mindir.encode(net, (X,))


def test_the_check_notices_a_wrong_setting():
    """A batch norm that would take its statistics from the batch, a shape that is not the computed one."""
    net, inputs, traced = zoo.traced("vgg")
    for damage in (lambda builder: builder.graph.node[-1].attribute[0].tensors[0].dims.__setitem__(0, 7), _train):
        pieces = mindir.pieces_of(traced)
        damage(pieces)
        with pytest.raises(GraphError, match="node "):
            mindir.check(pieces, traced, net, inputs)


def _train(pieces):
    nodes = {node.name: node for node in pieces.graph.node}
    norm = next(node for node in pieces.graph.node if node.op_type.startswith("REF::BatchNorm"))
    nodes[norm.input[5]].attribute[0].i = 1


def test_a_file_larger_than_a_message_is_refused(tmp_path, monkeypatch):
    """Before anything is written; GEIR's limit is the same."""
    monkeypatch.setattr("milepost.graphs.lowering.FILE_LIMIT", 1000)
    net, inputs = zoo.make("mlp")
    for file_format in ("MINDIR", "GEIR"):
        with pytest.raises(GraphError, match=f"1,000, which is what one {file_format} file holds"):
            export(net, *inputs, file_name=tmp_path / "net", file_format=file_format)
    assert os.listdir(tmp_path) == []


def test_export_writes_a_mindir_file(tmp_path):
    """By its suffix or by its name, and twice to the byte."""
    net, inputs = zoo.make("bert")
    path = export(net, *inputs, file_name=tmp_path / "bert", file_format="MINDIR")
    assert path == tmp_path / "bert.mindir"
    again = export(net, *inputs, file_name=tmp_path / "again.mindir", verify=False)
    assert path.read_bytes() == again.read_bytes()


def test_settings_of_other_formats_are_refused(tmp_path):
    """Shapes are static, and there is one set of primitives."""
    for setting in ({"opset": 18}, {"operators": "2020"}, {"dynamic_shapes": {}}, {"input_names": ["x"]}):
        with pytest.raises(SettingError, match=next(iter(setting))):
            export(nn.ReLU(), X, file_name=tmp_path / "net.mindir", **setting)


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, b"not a graph", b"\x0a\x01x"])
def test_what_is_no_mindir_file_is_refused(content):
    """With its name."""
    with pytest.raises(GraphError, match="net"):
        mindir.parse(content, "net")


def test_a_missing_protobuf_is_told_by_its_extra():
    """In a process that has none."""
    code = (
        "import sys; sys.modules['google.protobuf'] = None\n"
        "import torch\nfrom milepost.graphs import mindir\n"
        "try: mindir.encode(torch.nn.ReLU(), (torch.zeros(1),))\n"
        "except ImportError as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(MissingExtraError.__name__)
    assert "milepost[mindir]" in done.stdout
