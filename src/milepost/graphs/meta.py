"""The `-graph.meta` file's content: an ONNX graph without weights, and how weights fill it. Files are not known here.

The weights are *inputs* of the graph, under the names of the checkpoint's entries, each marked in its `metadata_props`.
That is how `torch.onnx.ONNXProgram.save(include_initializers=False, keep_initializers_as_inputs=True)` writes a graph
without weights, and the only form of four that onnx.checker and onnxruntime accept: an initializer without data, or
with external data that is not there, is refused by both; a sparse initializer without values means zeros, and
computes with them silently. onnxruntime runs such a graph as it is, with the weights among what it is fed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from milepost._version import __version__
from milepost.errors import GraphError, MismatchError
from milepost.graphs.guard import untouched
from milepost.graphs.trace import as_inputs, need_onnx, trace
from milepost.state.tensors import content_of

if TYPE_CHECKING:
    import onnx

ENTRY = "milepost.entry"
"""The mark of a weight among the graph's inputs; its value is ``parameter`` or ``buffer``."""

KIND_WITHOUT_WEIGHTS = "graph without weights"

_ONNX_TYPES = {torch.float32: "FLOAT", torch.float64: "DOUBLE"}
_NOTHING: Mapping[str, str] = MappingProxyType({})


def graph_meta(net: nn.Module, inputs: object, *, metadata: Mapping[str, str] = _NOTHING) -> bytes:
    """Trace `net` and return its graph without weights, as an ONNX model.

    The module is traced in eval mode, with a free batch dimension where it allows one, and is left exactly as it was.
    The graph's first inputs are those of forward; after them come the parameters and buffers that the computation
    uses, under their names in `net.state_dict()` (of tied ones the first). Buffers that are not in the state dict, and
    other tensors that the module holds, are constants of the graph. Hooks that the user registered are left out, and
    the modules that have some are listed in the metadata; hooks of torch that compute a weight (weight norm, spectral
    norm, pruning) are in.

    Args:
        net: The module, on any device.
        inputs: An example tensor or array, or a tuple of them, as for a call of `net`; the values do not matter.
        metadata: Further lines for the graph's metadata, such as the run.

    Raises:
        GraphError: The module cannot be expressed as a graph.
        MissingExtraError: onnx or onnxscript is not installed.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> meta = graph_meta(net, torch.zeros(1, 3))
        >>> [weight.name for weight in fill(meta, net.state_dict()).graph.initializer]
        ['weight', 'bias']
    """
    need_onnx("tracing a graph", "onnx", "onnxscript")
    with untouched(net):
        traced = trace(net, as_inputs(net, inputs))
    proto = traced.proto()
    for value in proto.graph.input:
        if value.name in traced.kinds:
            value.metadata_props.add(key=ENTRY, value=traced.kinds[value.name])
    describe(proto, type(net).__name__, KIND_WITHOUT_WEIGHTS, metadata, hidden_hooks=traced.hidden_hooks)
    check(proto, type(net).__name__)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def fill(meta: bytes, weights: Mapping[str, object]) -> onnx.ModelProto:
    """Put weights into a graph that `graph_meta` made; the result is a complete ONNX model.

    Args:
        meta: The content of a ``-graph.meta`` file.
        weights: Name to tensor or array, such as what `load_checkpoint` returns; names that the graph does not use
            are ignored.

    Raises:
        GraphError: `meta` is not such a graph.
        MismatchError: Weights are missing, or of another shape or dtype; all of them are listed.
        MissingExtraError: onnx is not installed.
    """
    need_onnx("reading a graph", "onnx")
    with sound("a graph"):
        proto, tensors = join(meta, weights)
    insert(proto, tensors)
    return proto


def insert(proto: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> None:
    """Give the initializers that `to_initializers` made their data."""
    for initializer in proto.graph.initializer:
        if initializer.name in tensors:
            initializer.raw_data = bytes(content_of(tensors[initializer.name]))


def join(
    meta: bytes, weights: Mapping[str, object], where: str = "a graph"
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """As `fill`, but the tensors stand beside the graph, whose initializers of these names have no data."""
    need_onnx("reading a graph", "onnx")
    proto = _parsed(meta, where)
    places = [value for value in proto.graph.input if _is_entry(value)]
    problems = [problem for value in places if (problem := _problem(value, weights))]
    if problems:
        raise MismatchError(
            f"weights for {where}",
            found=f"{len(problems)} of {len(places)} entries that do not fit: " + "; ".join(problems),
            expected="the names, shapes and dtypes of the graph",
            remedy="Use a checkpoint of the run that wrote the graph.",
        )
    tensors = {value.name: _tensor(weights[value.name]) for value in places}
    to_initializers(proto, tensors)
    return proto, tensors


def to_initializers(proto: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> None:
    """Make the inputs of these names initializers, without data yet: the graph's last ones, in the order of inputs."""
    inputs = list(proto.graph.input)
    del proto.graph.input[:]
    for value in inputs:
        if value.name in tensors:
            kind, shape = value.type.tensor_type.elem_type, tensors[value.name].shape
            proto.graph.initializer.add(name=value.name, data_type=kind, dims=shape)
        else:
            proto.graph.input.append(value)


def describe(
    proto: onnx.ModelProto, model: str, kind: str, metadata: Mapping[str, str], *, hidden_hooks: list[str]
) -> None:
    """Say in the graph's metadata what it is, of which module, and what wrote it."""
    facts = {**metadata, "model": model, "torch": torch.__version__}
    if hidden_hooks:
        facts["hooks left out"] = ", ".join(hidden_hooks)
    restate(proto, kind, facts)


def restate(proto: onnx.ModelProto, kind: str, facts: Mapping[str, str]) -> None:
    """Add to what the metadata says, or change it."""
    known = {line.key: line.value for line in proto.metadata_props}
    known |= {**facts, "kind": kind, "milepost": __version__}
    proto.doc_string = f"{known.get('model')}, {kind}"
    del proto.metadata_props[:]
    for key, value in sorted(known.items()):
        proto.metadata_props.add(key=key, value=value)


def check(proto: onnx.ModelProto, where: str) -> None:
    """Raise `GraphError` if onnx.checker refuses the graph."""
    import onnx

    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise GraphError(
            where,
            found=f"a graph that onnx.checker refuses: {str(error).partition(chr(10))[0]}",
            expected="a valid ONNX graph",
            remedy="Try another version of torch or onnxscript; checkpoints do not need the graph.",
        ) from error


def _parsed(meta: bytes, where: str) -> onnx.ModelProto:
    import onnx

    proto = onnx.ModelProto.FromString(meta)
    if not _is_text(proto):
        raise _not_a_graph(where, "texts that are not UTF-8")
    kind = {line.key: line.value for line in proto.metadata_props}.get("kind")
    if kind != KIND_WITHOUT_WEIGHTS:
        raise _not_a_graph(where, f"an ONNX model of kind {kind!r}")
    onnx.checker.check_model(proto)
    return proto


def _is_text(message: Any) -> bool:
    """Whether all texts are: those of protobuf's version 2 are not checked, and are bytes where they are not UTF-8."""
    for field, value in message.ListFields():
        values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        if field.type == field.TYPE_MESSAGE and not all(_is_text(item) for item in values):
            return False
        if field.type == field.TYPE_STRING and not all(isinstance(item, str) for item in values):
            return False
    return True


@contextmanager
def sound(where: str) -> Iterator[None]:
    """Tell of what protobuf and onnx.checker refuse as of a file that is no graph."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        yield
    except (DecodeError, UnicodeDecodeError) as error:
        raise _not_a_graph(where, "bytes that are not an ONNX model") from error
    except onnx.checker.ValidationError as error:
        raise _not_a_graph(where, f"one that onnx.checker refuses: {str(error).partition(chr(10))[0]}") from error


def _not_a_graph(where: str, found: str) -> GraphError:
    return GraphError(
        where,
        found=found,
        expected=f"a {KIND_WITHOUT_WEIGHTS}",
        remedy="Give the -graph.meta file that the training wrote.",
    )


def _is_entry(value: onnx.ValueInfoProto) -> bool:
    return any(mark.key == ENTRY for mark in value.metadata_props)


def _problem(place: onnx.ValueInfoProto, weights: Mapping[str, object]) -> str | None:
    if place.name not in weights:
        return f"{place.name} is missing"
    value = weights[place.name]
    if not isinstance(value, Tensor | np.ndarray):
        return f"{place.name} is a {type(value).__name__}"
    import onnx

    expected = place.type.tensor_type
    shape = tuple(dim.dim_value for dim in expected.shape.dim)
    if tuple(value.shape) != shape:
        return f"{place.name} has shape {tuple(value.shape)} instead of {shape}"
    dtype = _onnx_type(_tensor(value).dtype)
    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    if dtype != (wanted := names.get(expected.elem_type, f"type {expected.elem_type}")):
        return f"{place.name} is of {dtype} instead of {wanted}"
    return None


def _tensor(value: object) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def _onnx_type(dtype: torch.dtype) -> str:
    return _ONNX_TYPES.get(dtype, str(dtype).removeprefix("torch.").upper())
