import re
from collections import Counter

import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost.errors import GraphError, MismatchError, MissingExtraError
from milepost.graphs import fill, graph_meta
from milepost.graphs.meta import ENTRY


def image(batch):
    return (torch.randn(batch, 1, 8, 8),)


def rows(batch):
    return (torch.randn(batch, 6),)


def tokens(batch):
    return (torch.randint(11, (batch, 5)),)


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def marks_of(meta):
    """Name to kind of the weights that a graph asks for."""
    inputs = onnx.ModelProto.FromString(meta).graph.input
    return {value.name: mark.value for value in inputs for mark in value.metadata_props if mark.key == ENTRY}


@pytest.mark.parametrize(
    ("kind", "example", "parameters", "buffers"),
    [
        ("mlp", rows, {"0.weight", "0.bias", "2.weight", "2.bias"}, set()),
        (
            "lenet",
            image,
            {
                "features.0.weight",
                "features.0.bias",
                "features.1.weight",
                "features.1.bias",
                "head.weight",
                "head.bias",
            },
            {"features.1.running_mean", "features.1.running_var"},
        ),
        # Tied weights are one entry, under the first name; what the computation does not use is not asked for.
        ("tied", tokens, {"embedding.weight"}, set()),
    ],
)
def test_a_graph_filled_with_weights_computes_what_the_module_computes(
    networks, assert_computes, kind, example, parameters, buffers
):
    """Under the checkpoint's names, also after more training, and for batches of other sizes than the example's."""
    net = networks["settle"](networks[kind](), example(4))
    meta = graph_meta(net, example(4))
    assert marks_of(meta) == dict.fromkeys(parameters, "parameter") | dict.fromkeys(buffers, "buffer")
    networks["settle"](net, example(4))
    filled = fill(meta, net.state_dict())
    for batch in (1, 4, 7):
        assert_computes(filled, net, *example(batch))


@pytest.mark.slow
def test_resnet50_from_graph_and_weights_computes_what_the_module_computes(networks, assert_computes):
    """The tutorial's network, with statistics from training."""
    from resnet50 import ResNet50

    net = networks["settle"](ResNet50(in_channels=1, num_classes=10), (torch.randn(4, 1, 32, 32),))
    meta = graph_meta(net, torch.randn(32, 1, 32, 32))
    filled = fill(meta, net.state_dict())
    assert len(meta) < 250_000
    operators = Counter(node.op_type for node in filled.graph.node)
    assert (operators["Conv"], operators["BatchNormalization"], operators["Relu"], operators["Add"]) == (53, 53, 49, 16)
    assert operators.total() < 53 + 53 + 49 + 16 + 12
    assert {name for name in net.state_dict() if not name.endswith("num_batches_tracked")} == set(marks_of(meta))
    for batch in (1, 3):
        assert_computes(filled, net, torch.randn(batch, 1, 32, 32))


@pytest.mark.slow
def test_a_transformer_from_graph_and_weights_computes_what_the_module_computes(networks, assert_computes):
    """Attention, layer norm and a mask as second input, whose first dimension is not the batch."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, sequence, mask):
            return self.encoder(sequence, mask, is_causal=False)

    def example(batch):
        return torch.randn(batch, 5, 16), nn.Transformer.generate_square_subsequent_mask(5)

    net = networks["settle"](Encoder(), example(3))
    meta = graph_meta(net, example(3))
    assert [shape_of(value) for value in onnx.ModelProto.FromString(meta).graph.input[:2]] == [["batch", 5, 16], [5, 5]]
    for batch in (1, 4):
        assert_computes(fill(meta, net.state_dict()), net, *example(batch))


def test_a_graph_without_weights_is_valid_and_runs_when_it_is_fed_them(networks):
    """A viewer opens it as it is, and nothing can take missing weights for zeros."""
    net, (x,) = networks["mlp"]().eval(), rows(3)
    meta = graph_meta(net, x)
    onnx.checker.check_model(meta, full_check=True)
    session = onnxruntime.InferenceSession(meta, providers=["CPUExecutionProvider"])
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    (found,) = session.run(None, {"input": x.numpy(), **weights})
    torch.testing.assert_close(torch.from_numpy(found), net(x).detach())
    with pytest.raises(ValueError, match="missing"):
        session.run(None, {"input": x.numpy()})


def test_constants_that_are_not_state_keep_their_data(networks):
    """A checkpoint does not hold them."""
    proto = onnx.ModelProto.FromString(graph_meta(networks["tied"](), tokens(2)))
    constants = {constant.name: onnx.numpy_helper.to_array(constant).tolist() for constant in proto.graph.initializer}
    assert constants == {"scale": [0.5] * 4, "shift": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(nn.DataParallel, "module."), (lambda net: torch.compile(net, backend="eager"), "_orig_mod.")],
    ids=["DataParallel", "compile"],
)
def test_wrappers_keep_the_names_that_they_give_in_the_checkpoint(wrap, prefix, assert_computes):
    """The state dict of what is trained is what is saved."""
    net = wrap(nn.Linear(6, 2))
    meta = graph_meta(net, rows(2))
    assert set(marks_of(meta)) == {prefix + "weight", prefix + "bias"}
    assert_computes(fill(meta, net.state_dict()), net, *rows(3))


def test_a_parameter_may_be_called_like_an_operator_or_an_argument(assert_computes):
    """torch.onnx names values after operators without looking, and makes a graph of two things of one name."""

    class Confusing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Parameter(torch.randn(6, 6))
            self.relu = nn.Parameter(torch.randn(6))
            self.val_0 = nn.Parameter(torch.randn(6))
            self.weight = nn.Parameter(torch.randn(6))

        def forward(self, weight):
            mean = weight.mean(1, keepdim=True)
            return functional.relu(functional.linear(weight * mean, self.linear)) * self.relu + self.val_0 * self.weight

    net = Confusing()
    meta = graph_meta(net, rows(2))
    assert set(marks_of(meta)) == set(net.state_dict())
    assert_computes(fill(meta, net.state_dict()), net, *rows(3))


def test_weights_that_are_computed_before_each_call_are_traced_to_their_entries(assert_computes):
    """Weight norm and pruning work through hooks; those belong to the module."""
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
        nn.utils.spectral_norm(nn.Linear(6, 6)),
        nn.utils.prune.l1_unstructured(nn.Linear(6, 6), "weight", 0.5),
    )
    meta = graph_meta(net, rows(2))
    assert set(marks_of(meta)) == set(net.state_dict())
    assert_computes(fill(meta, net.state_dict()), net, *rows(3))


def test_the_batch_is_fixed_where_the_network_needs_it_fixed():
    """Better a graph for one batch size than none."""

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3, 2).sum(1)

    proto = onnx.ModelProto.FromString(graph_meta(Fixed(), rows(2)))
    assert shape_of(proto.graph.input[0]) == [2, 6]


def test_an_example_of_one_row_leaves_the_batch_free(networks):
    """A dimension of 1 is what torch.export would take for a constant."""
    proto = onnx.ModelProto.FromString(graph_meta(networks["mlp"](), rows(1)))
    assert [shape_of(value) for value in (proto.graph.input[0], proto.graph.output[0])] == [["batch", 6], ["batch", 3]]


def test_a_viewer_knows_the_graph_by_its_first_bytes(networks):
    """Under a suffix that it does not know, Netron goes by them: version and producer, in this order."""
    assert re.match(rb"\x08[\x00-\x10]\x12[\x00-\x20]\w\w", graph_meta(networks["mlp"](), rows(2)))


def test_every_input_with_the_batch_is_free_and_arrays_are_welcome():
    """The example may come from NumPy."""
    example = (rows(2)[0].numpy(), torch.randn(2, 4))
    proto = onnx.ModelProto.FromString(graph_meta(nn.Bilinear(6, 4, 3), example))
    assert [shape_of(value) for value in proto.graph.input[:2]] == [["batch", 6], ["batch", 4]]


def test_the_metadata_says_what_it_is_and_nothing_of_this_machine(networks):
    """The caller adds the run; stack traces with paths do not get in; the same network gives the same bytes."""
    net = networks["mlp"]()
    net[0].register_forward_hook(lambda *_: None)
    meta = graph_meta(net, rows(2), metadata={"run": "resnet50_3"})
    facts = {line.key: line.value for line in onnx.ModelProto.FromString(meta).metadata_props}
    assert facts == {
        "run": "resnet50_3",
        "kind": "graph without weights",
        "model": "Sequential",
        "torch": torch.__version__,
        "milepost": facts["milepost"],
        "hooks left out": "0",
    }
    assert b".py" not in meta
    assert graph_meta(net, rows(2), metadata={"run": "resnet50_3"}) == meta


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("0.bias"), "0.bias is missing"),
        (lambda weights: weights.update({"0.bias": torch.zeros(9)}), r"0.bias has shape \(9,\) instead of \(8,\)"),
        (lambda weights: weights.update({"0.bias": torch.zeros(8).half()}), "0.bias is of FLOAT16 instead of FLOAT"),
        (lambda weights: weights.update({"0.bias": "text"}), "0.bias is a str"),
    ],
)
def test_weights_that_do_not_fit_the_graph_are_refused(networks, change, problem):
    """By name, with both sides."""
    net = networks["mlp"]()
    meta = graph_meta(net, rows(2))
    weights = dict(net.state_dict(), more=torch.zeros(1))
    fill(meta, weights)
    change(weights)
    with pytest.raises(MismatchError, match=problem):
        fill(meta, weights)


def test_weights_may_be_arrays_of_any_dtype_of_the_graph():
    """Filled bytes are the weights' bytes, bfloat16 included."""
    net = nn.Linear(3, 2).bfloat16()
    filled = fill(graph_meta(net, torch.zeros(1, 3).bfloat16()), net.state_dict())
    assert filled.graph.initializer[0].raw_data == net.weight.detach().view(torch.uint8).numpy().tobytes()
    net = nn.Linear(3, 2).double()
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    filled = fill(graph_meta(net, torch.zeros(1, 3).double()), weights)
    assert filled.graph.initializer[0].raw_data == weights["weight"].tobytes()


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"", b"\x08\x0a"])
def test_what_is_no_graph_is_refused(content):
    """Whatever the bytes are."""
    with pytest.raises(GraphError, match="graph without weights"):
        fill(content, {})


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_names_the_extra(networks, monkeypatch, package):
    """And says how to install it."""
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"no package '{package}'.*milepost\[onnx\]"):
        graph_meta(networks["mlp"](), rows(2))
