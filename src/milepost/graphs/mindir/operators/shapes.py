"""Views, slices, joins and splits as MindSpore primitives: elements move, none is computed."""

from __future__ import annotations

from milepost.graphs.mindir.builder import Builder, Edge
from milepost.graphs.mindir.operators.calls import Call, Table, need


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


def _expand(b: Builder, call: Call) -> Edge:
    return b.expand(call.x, call.shape)


def _repeat(b: Builder, call: Call) -> Edge:
    repeats = tuple(call["repeats"])
    x = b.reshape(call.x, (*[1] * (len(repeats) - call.x.rank), *call.x.shape))
    return b.one("Tile", [x, repeats], call.shape, call.dtype)


def _cat(b: Builder, call: Call) -> Edge:
    parts = [b.cast(edge, call.dtype) for edge in call["tensors"]]
    need(all(edge.rank == len(call.shape) for edge in parts), "a join of tensors without elements")
    return b.one("Concat", [parts, call["dim"] % len(call.shape)], call.shape, call.dtype)


def _stack(b: Builder, call: Call) -> Edge:
    parts = [b.cast(edge, call.dtype) for edge in call["tensors"]]
    axis = call["dim"] % len(call.shape)
    return b.one("Stack", [parts], call.shape, call.dtype, axis=axis, num=len(parts), N=len(parts))


def _split(b: Builder, call: Call) -> tuple[Edge, ...]:
    dim, begin, parts = call.dim(), 0, []
    for value in call.outputs:
        assert value is not None
        parts.append(_cut(b, call.x, dim, begin, begin + value.shape[dim], 1, value.shape))
        begin += value.shape[dim]
    return tuple(parts)


def _unbind(b: Builder, call: Call) -> tuple[Edge, ...]:
    return tuple(_taken(b, call.x, call.dim(), number) for number in range(call.x.shape[call.dim()]))


def _slice(b: Builder, call: Call) -> Edge:
    dim = call.dim()
    begin, end, _ = slice(call["start"], call["end"]).indices(call.x.shape[dim])
    return _cut(b, call.x, dim, begin, end, call["step"], call.shape)


def _select(b: Builder, call: Call) -> Edge:
    dim = call.dim()
    return _taken(b, call.x, dim, call["index"] % call.x.shape[dim])


def _taken(b: Builder, x: Edge, dim: int, index: int) -> Edge:
    one = _cut(b, x, dim, index, index + 1, 1, (*x.shape[:dim], 1, *x.shape[dim + 1 :]))
    return b.reshape(one, (*x.shape[:dim], *x.shape[dim + 1 :]))


def _cut(b: Builder, x: Edge, dim: int, begin: int, end: int, step: int, shape: tuple[int, ...]) -> Edge:
    if shape == x.shape:
        return x
    begins, ends, strides = [0] * x.rank, list(x.shape), [1] * x.rank
    begins[dim], ends[dim], strides[dim] = begin, end, step
    masks = [0] * 5
    return b.one("StridedSlice", [x, tuple(begins), tuple(ends), tuple(strides), *masks], shape, x.dtype)


def _pad(b: Builder, call: Call) -> Edge:
    given, rank = list(call["pad"]), call.x.rank
    need(min(given) >= 0, "a negative padding")
    need(call.arguments.get("mode", "constant") == "constant", "padding by what stands at the edge")
    need(not call["value"], "padding with other values than zero")
    rows = [(0, 0)] * (rank - len(given) // 2)
    rows += [(given[at], given[at + 1]) for at in range(len(given) - 2, -1, -2)]
    return b.one("Pad", [call.x], call.shape, call.dtype, paddings=tuple(rows))


_RESHAPES = "view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int unsqueeze.default"
_SQUEEZES = "squeeze.dim squeeze.dims squeeze.default"

TABLE: Table = {
    **dict.fromkeys(f"{_RESHAPES} {_SQUEEZES}".split(), _reshape),
    **dict.fromkeys(("split.Tensor", "split_with_sizes.default", "chunk.default"), _split),
    "permute.default": _permute,
    "transpose.int": _transpose,
    "t.default": _t,
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
"""torch's operator -> how it is said in MindSpore's primitives."""
