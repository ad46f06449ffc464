"""Views, slices, joins and splits as GE operators: elements move, none is computed."""

from __future__ import annotations

from typing import Any

from milepost.graphs.geir.builder import Builder, Edge
from milepost.graphs.geir.operators.calls import Call, Table, need


def _reshape(b: Builder, call: Call) -> Edge:
    return b.reshape(call.x, call.shape)


def _permute(b: Builder, call: Call) -> Edge:
    return b.permute(call.x, [number % call.x.rank for number in call["dims"]])


def _transpose(b: Builder, call: Call) -> Edge:
    order = list(range(call.x.rank))
    if order:
        first, second = call.dim("dim0"), call.dim("dim1")
        order[first], order[second] = order[second], order[first]
    return b.permute(call.x, order)


def _t(b: Builder, call: Call) -> Edge:
    return b.permute(call.x, list(reversed(range(call.x.rank))))


def _unsqueeze(b: Builder, call: Call) -> Edge:
    return b.one("Unsqueeze", [call.x], call.shape, call.dtype, axes=[call["dim"] % (call.x.rank + 1)])


def _squeeze(b: Builder, call: Call) -> Edge:
    if call.shape == call.x.shape:
        return call.x
    given = call.dims() if "dim" in call.arguments else range(call.x.rank)
    axes = [dim for dim in given if call.x.shape[dim] == 1]
    return b.one("Squeeze", [call.x], call.shape, call.dtype, axis=axes)


def _expand(b: Builder, call: Call) -> Edge:
    return b.expand(call.x, call.shape)


def _repeat(b: Builder, call: Call) -> Edge:
    repeats = list(call["repeats"])
    x = b.reshape(call.x, (*[1] * (len(repeats) - call.x.rank), *call.x.shape))
    return b.one("TileD", [x], call.shape, call.dtype, multiples=repeats)


def _cat(b: Builder, call: Call) -> Edge:
    parts = [b.cast(edge, call.dtype) for edge in call["tensors"]]
    need(all(edge.rank == len(call.shape) for edge in parts), "a join of tensors without elements")
    return b.one("ConcatD", parts, call.shape, call.dtype, concat_dim=call["dim"] % len(call.shape), N=len(parts))


def _stack(b: Builder, call: Call) -> Edge:
    parts = [b.cast(edge, call.dtype) for edge in call["tensors"]]
    return b.one("Pack", parts, call.shape, call.dtype, axis=call["dim"] % len(call.shape), N=len(parts))


def _split(b: Builder, call: Call) -> tuple[Edge, ...]:
    dim = call.dim()
    outputs = [(value.shape, value.dtype) for value in call.outputs if value is not None]
    sizes = [shape[dim] for shape, _ in outputs]
    return b.op("SplitVD", [call.x], outputs, size_splits=sizes, split_dim=dim, num_split=len(sizes))


def _unbind(b: Builder, call: Call) -> tuple[Edge, ...]:
    outputs = [(value.shape, value.dtype) for value in call.outputs if value is not None]
    return b.op("Unpack", [call.x], outputs, num=len(outputs), axis=call.dim())


def _slice(b: Builder, call: Call) -> Edge:
    if call.shape == call.x.shape:
        return call.x
    dim = call.dim()
    begin, end, _ = slice(call["start"], call["end"]).indices(call.x.shape[dim])
    return _strided(b, call, dim, begin, end, call["step"])


def _select(b: Builder, call: Call) -> Edge:
    dim = call.dim()
    begin = call["index"] % call.x.shape[dim]
    return _strided(b, call, dim, begin, begin + 1, 1, shrink_axis_mask=1 << dim)


def _strided(b: Builder, call: Call, dim: int, begin: int, end: int, step: int, shrink_axis_mask: int = 0) -> Edge:
    begins, ends, strides = [0] * call.x.rank, list(call.x.shape), [1] * call.x.rank
    begins[dim], ends[dim], strides[dim] = begin, end, step
    masks: dict[str, Any] = dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask"), 0)
    masks["shrink_axis_mask"] = shrink_axis_mask
    return b.one("StridedSliceD", [call.x], call.shape, call.dtype, begin=begins, end=ends, strides=strides, **masks)


def _pad(b: Builder, call: Call) -> Edge:
    given, rank = list(call["pad"]), call.x.rank
    need(min(given) >= 0, "a negative padding")
    need(call.arguments.get("mode", "constant") == "constant", "padding by what stands at the edge")
    need(not call["value"], "padding with other values than zero")
    rows = [[0, 0]] * (rank - len(given) // 2) + [given[at : at + 2] for at in range(len(given) - 2, -1, -2)]
    return b.one("PadD", [call.x], call.shape, call.dtype, paddings=rows)


TABLE: Table = {
    **dict.fromkeys(("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints"), _reshape),
    **dict.fromkeys(("split.Tensor", "split_with_sizes.default", "chunk.default"), _split),
    **dict.fromkeys(("squeeze.dim", "squeeze.dims", "squeeze.default"), _squeeze),
    "unflatten.int": _reshape,
    "permute.default": _permute,
    "transpose.int": _transpose,
    "t.default": _t,
    "unsqueeze.default": _unsqueeze,
    "expand.default": _expand,
    "repeat.default": _repeat,
    "cat.default": _cat,
    "stack.default": _stack,
    "unbind.int": _unbind,
    "slice.Tensor": _slice,
    "select.int": _select,
    "constant_pad_nd.default": _pad,
    "pad.default": _pad,
}
"""torch's operator -> how it is said in GE's."""
