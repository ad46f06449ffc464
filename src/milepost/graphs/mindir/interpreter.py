"""What MindSpore's primitives mean, in torch's arithmetic. How a module becomes a graph is not known here.

This is the judge of the export: it must not share a line with the table of `operators`, or both could be wrong alike.
"""
# ruff: noqa: ARG001, ARG005 - every rule takes the attributes first, whether it has some or not

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from milepost.errors import GraphError
from milepost.graphs.mindir.dtypes import FROM_TYPE_ID
from milepost.graphs.mindir.reader import Graph, Node, Stated

Attributes = dict[str, Any]
Rule = Callable[..., Any]


def run(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Compute the results of a graph, and hold every node to the shapes and dtypes that the file states.

    Args:
        graph: What `parse` gives.
        inputs: One tensor for each input of the graph.

    Raises:
        GraphError: A primitive is not known here, its arguments do not fit, or it gives something else than the file
            states.
    """
    found = [_stated(tensor) for tensor in inputs]
    if found != list(graph.inputs.values()):
        raise _wrong(graph.name, f"inputs {found}", f"{graph.inputs}")
    values: dict[str, Any] = {**graph.values, **dict(zip(graph.inputs, inputs, strict=True))}
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses[graph.output] += 1
    with torch.no_grad():
        for node in graph.nodes:
            values[node.name] = _result(node, [values[name] for name in node.inputs])
            for name in node.inputs:  # what no other node needs is let go
                uses[name] -= 1
                if uses[name] == 0:
                    del values[name]
    result = values[graph.output]
    return list(result) if isinstance(result, tuple) else [result]


def _result(node: Node, arguments: list[Any]) -> Any:
    place = f"node {node.name!r} ({node.type})"
    if node.type not in RULES:
        raise _wrong(place, "a primitive without a rule", "one of " + ", ".join(sorted(RULES)))
    try:
        result = RULES[node.type](node.attributes, *arguments)
    except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
        text = str(error).partition("\n")[0]
        raise _wrong(place, f"what cannot be computed: {text}", "arguments that fit") from error
    computed = [_stated(tensor) for tensor in (result if isinstance(result, tuple) else (result,))]
    if computed != list(node.results):
        raise _wrong(place, f"results {computed}", f"what the file states, {list(node.results)}")
    return result


def _stated(tensor: Tensor) -> Stated:
    return tuple(tensor.shape), tensor.dtype


def _wrong(where: str, found: str, expected: str) -> GraphError:
    remedy = "Give inputs of the shapes that were exported, or export the network again."
    return GraphError(where, found=found, expected=expected, remedy=remedy)


def _conv2d(a: Attributes, x: Tensor, w: Tensor) -> Tensor:
    if a["pad_mode"] != "pad" or a["mode"] != 1 or a["format"] != "NCHW":
        raise ValueError("a mode of padding or a layout that is not known here")
    if tuple(w.shape) != (a["out_channel"], x.shape[1] // a["group"], *a["kernel_size"]):
        raise ValueError("weights of another shape than the attributes say")
    top, bottom, left, right = a["pad_list"]
    padded = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(padded, w, None, a["stride"][2:], 0, a["dilation"][2:], a["group"])


def _bias_add(a: Attributes, x: Tensor, bias: Tensor, data_format: int) -> Tensor:
    _is_nchw(data_format)
    return x + bias.view(-1, *[1] * (x.dim() - 2))


def _batch_norm(
    a: Attributes,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    is_training: bool,
    epsilon: float,
    momentum: float,
    data_format: int,
) -> tuple[Tensor, ...]:
    _is_nchw(data_format)
    if is_training:
        raise ValueError("is_training is true")
    factor = scale * torch.rsqrt(variance + epsilon)
    columns = (1, -1, 1, 1)
    y = (x - mean.view(columns)) * factor.view(columns) + bias.view(columns)
    return y.to(x.dtype), mean, variance, mean, variance


def _is_nchw(data_format: int) -> None:
    if data_format != 0:
        raise ValueError("another layout than NCHW")


def _layer_norm(
    a: Attributes, x: Tensor, gamma: Tensor, beta: Tensor, begin: int, begin_params: int, epsilon: float
) -> tuple[Tensor, ...]:
    if begin != begin_params:
        raise ValueError("factors of other dimensions than the norm's")
    axes = list(range(begin % x.dim(), x.dim()))
    wide = x.float()
    mean = wide.mean(axes, keepdim=True)
    variance = (wide - mean).square().mean(axes, keepdim=True)
    y = (wide - mean) * torch.rsqrt(variance + epsilon) * gamma.float() + beta.float()
    return y.to(x.dtype), mean, variance


def _max_pool3d(a: Attributes, x: Tensor) -> Tensor:
    if a["pad_mode"] != "CALCULATED":
        raise ValueError("another mode of padding than CALCULATED")
    return _windows(a, x, float("-inf"), padding=float("-inf")).amax(-1).unsqueeze(2)


def _avg_pool3d(a: Attributes, x: Tensor) -> Tensor:
    if a["pad_mode"] != "PAD":
        raise ValueError("another mode of padding than PAD")
    total = _windows(a, x, 0.0, padding=0.0).sum(-1)
    here = torch.ones_like(x)
    # Where padding counts, what rounding up adds beyond it does not.
    count = _windows(a, here, 0.0, padding=1.0 if a["count_include_pad"] else 0.0).sum(-1)
    return (total / (a["divisor_override"] or count)).unsqueeze(2)


def _windows(a: Attributes, x: Tensor, fill: float, padding: float) -> Tensor:
    """Every window of a volume that is one deep, as (batch, channels, rows, columns, elements)."""
    (depth, *size), strides, (front, back, *pads) = a["kernel_size"][2:], a["strides"][3:], a["pad_list"]
    if (x.shape[2], depth, front, back) != (1, 1, 0, 0):
        raise ValueError("volumes that are deeper than one")
    top, bottom, left, right = pads
    extra = [
        _beyond(length, window, stride, before, after, bool(a["ceil_mode"]))
        for length, window, stride, before, after in zip(
            x.shape[3:], size, strides, (top, left), (bottom, right), strict=True
        )
    ]
    padded = functional.pad(x.squeeze(2), (left, right, top, bottom), value=padding)
    padded = functional.pad(padded, (0, extra[1], 0, extra[0]), value=fill)
    return padded.unfold(2, size[0], strides[0]).unfold(3, size[1], strides[1]).flatten(4)


def _beyond(length: int, window: int, stride: int, before: int, after: int, up: bool) -> int:
    """How far the last window reaches over the padded image; one that begins beyond it is not there."""
    steps, rest = divmod(length + before + after - window, stride)
    begins_inside = (steps + 1) * stride < length + before
    return stride - rest if up and rest and begins_inside else 0


def _matmul(a: Attributes, x: Tensor, y: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    return (x.mT if transpose_a else x) @ (y.mT if transpose_b else y)


def _gather(a: Attributes, x: Tensor, indices: Tensor, axis: int, batch_dims: int) -> Tensor:
    if batch_dims:
        raise ValueError("batch_dims other than 0")
    taken = x.index_select(axis, indices.reshape(-1))
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _reduce_sum(a: Attributes, x: Tensor, axis: tuple[int, ...], keep_dims: bool, skip_mode: bool) -> Tensor:
    if skip_mode:
        raise ValueError("skip_mode")
    return x.sum(axis, keepdim=keep_dims)


def _softmax(a: Attributes, x: Tensor, axis: tuple[int]) -> Tensor:
    powers = (x - x.amax(axis, keepdim=True)).exp()
    return powers / powers.sum(axis, keepdim=True)


def _strided_slice(a: Attributes, x: Tensor, begin: Any, end: Any, strides: Any, *masks: int) -> Tensor:
    if any(masks):
        raise ValueError("masks")
    return x[tuple(slice(*cut) for cut in zip(begin, end, strides, strict=True))]


def _pad(a: Attributes, x: Tensor) -> Tensor:
    return functional.pad(x, [size for row in reversed(a["paddings"]) for size in row])


def _log(a: Attributes, x: Tensor) -> Tensor:
    if (a["base"], a["scale"], a["shift"]) != (-1, 1, 0):
        raise ValueError("another base than e")
    return torch.log(x)


def _reduced(reduce: Callable[..., Tensor]) -> Rule:
    return lambda a, x, axis, keep_dims: reduce(x, axis, keepdim=keep_dims)


def _of(function: Callable[..., Tensor]) -> Rule:
    return lambda a, *inputs: function(*inputs)


def _same_dtype(function: Callable[..., Tensor]) -> Rule:
    def rule(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
        if x.dtype != y.dtype:
            raise TypeError(f"{x.dtype} and {y.dtype}")
        return function(x, y)

    return rule


RULES: dict[str, Rule] = {
    "MakeTuple": lambda a, *parts: parts,
    "TupleGetItem": lambda a, parts, index: parts[index],
    "Conv2D": _conv2d,
    "BiasAdd": _bias_add,
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
    "MaxPool3D": _max_pool3d,
    "AvgPool3D": _avg_pool3d,
    "AdaptiveAvgPool2D": lambda a, x: functional.adaptive_avg_pool2d(x, a["output_size"]),
    "MatMul": _matmul,
    "BatchMatMul": _matmul,
    "Gather": _gather,
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduce_sum,
    "ReduceMax": _reduced(torch.amax),
    "ReduceMin": _reduced(torch.amin),
    "Softmax": _softmax,
    "LogSoftmax": lambda a, x, axis: x - x.logsumexp(axis, keepdim=True),
    "Add": _same_dtype(torch.add),
    "Sub": _same_dtype(torch.sub),
    "Mul": _same_dtype(torch.mul),
    "RealDiv": _same_dtype(torch.div),
    "Maximum": _same_dtype(torch.maximum),
    "Minimum": _same_dtype(torch.minimum),
    "Pow": _same_dtype(torch.pow),
    "Equal": _same_dtype(torch.eq),
    "NotEqual": _same_dtype(torch.ne),
    "Greater": _same_dtype(torch.gt),
    "GreaterEqual": _same_dtype(torch.ge),
    "Less": _same_dtype(torch.lt),
    "LessEqual": _same_dtype(torch.le),
    "LogicalAnd": _same_dtype(torch.logical_and),
    "LogicalOr": _same_dtype(torch.logical_or),
    "LogicalNot": _of(torch.logical_not),
    "Select": _of(torch.where),
    "ReLU": lambda a, x: x.clamp(min=0),
    "ReLU6": lambda a, x: x.clamp(0, 6),
    "Sigmoid": lambda a, x: 1 / (1 + torch.exp(-x)),
    "Tanh": _of(torch.tanh),
    "SiLU": lambda a, x: x / (1 + torch.exp(-x)),
    "HSwish": lambda a, x: x * (x + 3).clamp(0, 6) / 6,
    "HSigmoid": lambda a, x: (x / 6 + 0.5).clamp(0, 1),
    "Erf": _of(torch.erf),
    "Exp": _of(torch.exp),
    "Expm1": _of(torch.expm1),
    "Log": _log,
    "Sqrt": _of(torch.sqrt),
    "Rsqrt": _of(torch.rsqrt),
    "Square": lambda a, x: x * x,
    "Reciprocal": lambda a, x: 1 / x,
    "Neg": _of(torch.neg),
    "Abs": _of(torch.abs),
    "Sign": _of(torch.sign),
    "Sin": _of(torch.sin),
    "Cos": _of(torch.cos),
    "Floor": _of(torch.floor),
    "Ceil": _of(torch.ceil),
    "Reshape": lambda a, x, shape: x.reshape(shape),
    "Transpose": lambda a, x, order: x.permute(order),
    "BroadcastTo": lambda a, x, shape: x.broadcast_to(shape),
    "Tile": lambda a, x, dims: x.tile(dims),
    "Concat": lambda a, parts, axis: torch.cat(parts, axis),
    "Stack": lambda a, parts: torch.stack(parts, a["axis"]),
    "StridedSlice": _strided_slice,
    "Pad": _pad,
    "Cast": lambda a, x, number: x.to(FROM_TYPE_ID[number]),
}
"""Primitive -> what it computes, of its attributes and its arguments."""
