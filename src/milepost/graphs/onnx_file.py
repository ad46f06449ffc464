"""A module, or a graph and its weights, as ONNX files. What a checkpoint is, and where files go, is not known here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from milepost.graphs.files import Order, Part
from milepost.graphs.guard import untouched
from milepost.graphs.judge import judge
from milepost.graphs.meta import check, describe, insert, to_initializers
from milepost.graphs.runtime import Session
from milepost.graphs.trace import OPSET, need_onnx, trace
from milepost.state.tensors import content_of

if TYPE_CHECKING:
    import onnx

KIND_WITH_WEIGHTS = "graph with weights"

ONE_FILE = 2**31 - 1
"""The most bytes of one ONNX file, for it is one protobuf message; what needs more has its weights beside it."""

_PAGE = 4096
"""Where a weight in the file beside the graph may begin, as the ONNX specification recommends for mapping it."""


def encode(order: Order) -> list[Part]:
    """Trace a module, and let onnxruntime check the result."""
    need_onnx("exporting to ONNX", "onnx", "onnxscript", *["onnxruntime"] * order.verify)
    net, where = order.net, type(order.net).__name__
    with untouched(net):
        traced = trace(net, order.inputs, order.dynamic_shapes, OPSET if order.opset is None else order.opset)
        traced.rename(order.input_names, order.output_names)
        proto = traced.proto()
        tensors: dict[str, Tensor] = {name: weight.raw.detach() for name, weight in traced.weights.items()}
    order.tell_of_fixed_batch(traced.free)
    describe(proto, where, KIND_WITH_WEIGHTS, order.origin, hidden_hooks=traced.hidden_hooks)
    check(proto, where)
    to_initializers(proto, tensors)
    parts = pack(proto, tensors, order.file_name)
    if order.verify:
        judge(net, session(parts, tensors, where).run, order.inputs, traced.free, traced.hidden_hooks)
    return parts


def pack(proto: onnx.ModelProto, tensors: dict[str, Tensor], file_name: str) -> list[Part]:
    """Put the weights into the graph, or into a file beside it if they are too large for one."""
    nbytes = proto.ByteSize() + sum(tensor.nbytes + 32 for tensor in tensors.values())
    if nbytes <= ONE_FILE:
        insert(proto, tensors)
        return [_model(proto, file_name)]
    offset = 0
    for name, initializer in _places(proto, tensors):
        facts = {"location": f"{file_name}.data", "offset": offset, "length": tensors[name].nbytes}
        initializer.data_location = initializer.EXTERNAL
        for key, value in facts.items():
            initializer.external_data.add(key=key, value=str(value))
        offset += _padded(tensors[name].nbytes)
    order = [tensors[name] for name, _ in _places(proto, tensors)]
    return [Part(f"{file_name}.data", offset, _pages(order)), _model(proto, file_name)]


def session(parts: list[Part], tensors: dict[str, Tensor], where: str) -> Session:
    """Open what `pack` returned, with weights beside the graph taken from memory."""
    *beside, model = parts
    return Session(b"".join(model.chunks), where, tensors if beside else {})


def _model(proto: onnx.ModelProto, file_name: str) -> Part:
    content: bytes = proto.SerializeToString(deterministic=True)
    return Part(file_name, len(content), [content])


def _places(proto: onnx.ModelProto, tensors: dict[str, Tensor]) -> list[tuple[str, onnx.TensorProto]]:
    return [(place.name, place) for place in proto.graph.initializer if place.name in tensors]


def _pages(tensors: list[Tensor]) -> Iterator[bytes | memoryview]:
    for tensor in tensors:
        yield content_of(tensor)
        yield bytes(_padded(tensor.nbytes) - tensor.nbytes)


def _padded(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE
