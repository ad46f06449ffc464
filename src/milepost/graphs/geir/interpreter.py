"""What GE's operators mean, by their prototypes, in torch's arithmetic. How a module becomes a graph is not known here.

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
from milepost.graphs.geir.dtypes import FROM_ATTRIBUTE
from milepost.graphs.geir.reader import Graph, Op

Attributes = dict[str, Any]
Rule = Callable[..., Any]


def run(graph: Graph, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Compute the results of a graph, and hold every op to the shapes and dtypes that the file states.

    Args:
        graph: What `load` gives.
        inputs: One tensor for each Data op, in their order.

    Raises:
        GraphError: An op is of a type that is not known here, its inputs do not fit, or it gives something else than
            the file states.
    """
    fed = graph.inputs
    if len(fed) != len(inputs):
        raise _wrong(graph.name, f"{len(inputs)} inputs", f"{len(fed)}: " + ", ".join(op.name for op in fed))
    values: dict[tuple[str, int], Tensor] = {}
    for op, tensor in zip(fed, inputs, strict=True):
        _hold(op, (tensor,))
        values[op.name, 0] = tensor
    uses = Counter(edge for op in graph.ops for edge in op.inputs)
    uses.update(graph.outputs)
    with torch.no_grad():
        for op in _ordered(graph):
            results = _results(op, [values[edge] for edge in op.inputs])
            values.update(((op.name, index), result) for index, result in enumerate(results))
            for edge in op.inputs:  # what no other op needs is let go
                uses[edge] -= 1
                if uses[edge] == 0:
                    values.pop(edge, None)
    return [values[edge] for edge in graph.outputs]


def _ordered(graph: Graph) -> list[Op]:
    """The ops that compute, each after those that it needs: a file may hold them in any order."""
    ops = {op.name: op for op in graph.ops if op.type not in ("Data", "NetOutput")}
    ordered: list[Op] = []
    state: dict[str, int] = {}
    for root in ops:
        pending = [root]
        while pending:
            name = pending[-1]
            if state.get(name) == 2 or name not in ops:
                pending.pop()
            elif state.get(name) == 1:
                pending.pop()
                state[name] = 2
                ordered.append(ops[name])
            else:
                state[name] = 1
                needed = [producer for producer, _ in ops[name].inputs if state.get(producer) != 2]
                if any(state.get(producer) == 1 for producer in needed):
                    raise _wrong(f"op {name!r}", "an op that needs its own result", "a graph without circles")
                pending += needed
    return ordered


def _results(op: Op, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    if op.type in ("Const", "Constant"):
        results: Any = op.attributes["value"]
    elif op.type in RULES:
        try:
            results = RULES[op.type](op.attributes, *inputs)
        except (RuntimeError, IndexError, KeyError, TypeError, ValueError) as error:
            text = str(error).partition("\n")[0]
            raise _wrong(
                f"op {op.name!r}", f"a {op.type} that cannot be computed: {text}", "inputs that fit"
            ) from error
    else:
        known = ", ".join(sorted(RULES))
        raise _wrong(f"op {op.name!r}", f"the type {op.type}", f"one that the reference interpreter knows: {known}")
    computed: tuple[Tensor, ...] = results if isinstance(results, tuple) else (results,)
    _hold(op, computed)
    return computed


def _hold(op: Op, results: tuple[Tensor, ...]) -> None:
    stated = [(desc.shape, desc.dtype) for desc in op.output_descs]
    actual = [(tuple(result.shape), result.dtype) for result in results]
    if stated != actual:
        raise _wrong(f"op {op.name!r} ({op.type})", f"results {actual}", f"what the file states, {stated}")


def _wrong(where: str, found: str, expected: str) -> GraphError:
    remedy = "Give inputs of the shapes that were exported, or export the network again."
    return GraphError(where, found=found, expected=expected, remedy=remedy)


def _conv2d(a: Attributes, x: Tensor, filter: Tensor, bias: Tensor | None = None) -> Tensor:
    top, bottom, left, right = a["pads"]
    padded = functional.pad(x, (left, right, top, bottom))
    strides, dilations = a["strides"][2:], a.get("dilations", [1, 1, 1, 1])[2:]
    return functional.conv2d(padded, filter, bias, strides, 0, dilations, a.get("groups", 1))


def _batch_norm(
    a: Attributes, x: Tensor, scale: Tensor, offset: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, ...]:
    if a.get("is_training", True):
        raise ValueError("is_training is true")
    one = (1, -1, 1, 1)
    factor = scale * torch.rsqrt(variance + a.get("epsilon", 1e-4))
    y = (x.float() - mean.view(one)) * factor.view(one) + offset.view(one)
    return y.to(x.dtype), mean, variance, mean, variance


def _windows(x: Tensor, size: list[int], strides: list[int], pads: list[int], up: bool, fill: float) -> Tensor:
    """Every window of an image, as (batch, channels, rows, columns, elements); beyond the image stands `fill`."""
    top, bottom, left, right = pads
    extra = []
    for length, window, stride, before, after in zip(
        x.shape[2:], size, strides, (top, left), (bottom, right), strict=True
    ):
        rest = (length + before + after - window) % stride
        more = stride - rest if up and rest else 0
        begins_outside = (length + before + after - window) // stride * stride + stride >= length + before
        extra.append(0 if begins_outside else more)
    padded = functional.pad(x, (left, right + extra[1], top, bottom + extra[0]), value=fill)
    cut = padded.unfold(2, size[0], strides[0]).unfold(3, size[1], strides[1])
    return cut.flatten(4)


def _max(x: Tensor, size: list[int], strides: list[int], pads: list[int], up: bool) -> Tensor:
    return _windows(x, size, strides, pads, up, float("-inf")).amax(-1)


def _average(x: Tensor, size: list[int], strides: list[int], pads: list[int], up: bool, exclusive: bool) -> Tensor:
    total = _windows(x.float(), size, strides, pads, up, 0.0).sum(-1)
    here = torch.ones_like(x, dtype=torch.float32)
    if not exclusive:  # padding counts, what rounding up adds does not
        here = functional.pad(here, (pads[2], pads[3], pads[0], pads[1]), value=1.0)
        pads = [0, 0, 0, 0]
    count = _windows(here, size, strides, pads, up, 0.0).sum(-1)[..., : total.shape[2], : total.shape[3]]
    return (total / count).to(x.dtype)


def _max_pool_v3(a: Attributes, x: Tensor) -> Tensor:
    _calculated(a)
    return _max(x, a["ksize"][2:], a["strides"][2:], a["pads"], a.get("ceil_mode", False))


def _avg_pool_v2(a: Attributes, x: Tensor) -> Tensor:
    _calculated(a)
    up, exclusive = a.get("ceil_mode", False), a.get("exclusive", True)
    return _average(x, a["ksize"][2:], a["strides"][2:], a["pads"], up, exclusive)


def _calculated(a: Attributes) -> None:
    if a.get("padding_mode", "CALCULATED") != "CALCULATED" or a.get("global_pooling", False):
        raise ValueError("a padding mode other than CALCULATED, or global pooling")


def _pooling(a: Attributes, x: Tensor) -> Tensor:
    up = a.get("ceil_mode", 0) == 0
    window, stride, pads = a["window"], a["stride"], a["pad"]
    if a.get("mode", 0) == 0:
        return _max(x, window, stride, pads, up)
    return _average(x, window, stride, pads, up, exclusive=False)


def _matmul(a: Attributes, x1: Tensor, x2: Tensor, bias: Tensor | None = None) -> Tensor:
    x1 = x1.T if a.get("transpose_x1", False) else x1
    x2 = x2.T if a.get("transpose_x2", False) else x2
    product = x1 @ x2
    return product if bias is None else product + bias


def _batch_matmul(a: Attributes, x1: Tensor, x2: Tensor) -> Tensor:
    x1 = x1.mT if a.get("adj_x1", False) else x1
    x2 = x2.mT if a.get("adj_x2", False) else x2
    return x1 @ x2


def _layer_norm(a: Attributes, x: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    axes = list(range(a.get("begin_norm_axis", 0) % x.dim(), x.dim()))
    wide = x.float()
    mean = wide.mean(axes, keepdim=True)
    variance = (wide - mean).square().mean(axes, keepdim=True)
    y = (wide - mean) * torch.rsqrt(variance + a.get("epsilon", 1e-7)) * gamma.float() + beta.float()
    return y.to(x.dtype), mean.to(x.dtype), variance.to(x.dtype)


def _gather(a: Attributes, x: Tensor, indices: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis) % x.dim()
    taken = x.index_select(dim, indices.reshape(-1))
    return taken.reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])


def _strided_slice(a: Attributes, x: Tensor) -> Tensor:
    if any(a.get(f"{mask}_mask", 0) for mask in ("begin", "end", "ellipsis", "new_axis")):
        raise ValueError("a mask other than shrink_axis_mask")
    shrunk = a.get("shrink_axis_mask", 0)
    cuts: list[Any] = []
    for dim, cut in enumerate(zip(a["begin"], a["end"], a["strides"], strict=True)):
        cuts.append(cut[0] if shrunk >> dim & 1 else slice(*cut))
    return x[tuple(cuts)]


def _squeeze(a: Attributes, x: Tensor) -> Tensor:
    return x.squeeze(tuple(a["axis"]))


def _unsqueeze(a: Attributes, x: Tensor) -> Tensor:
    for axis in sorted(a["axes"]):
        x = x.unsqueeze(axis)
    return x


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    line: Tensor = x * a.get("alpha", 0.16666666) + a.get("beta", 0.5)
    return line.clamp(0, 1)


def _elu(a: Attributes, x: Tensor) -> Tensor:
    negative = a.get("alpha", 1.0) * torch.expm1(x * a.get("input_scale", 1.0))
    return torch.where(x > 0, x, negative) * float(a.get("scale", 1.0))


def _leaky_relu(a: Attributes, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * a.get("negative_slope", 0.0))


def _softmax(a: Attributes, x: Tensor) -> Tensor:
    (axis,) = a.get("axes", [-1])
    powers = (x.float() - x.float().amax(axis, keepdim=True)).exp()
    return (powers / powers.sum(axis, keepdim=True)).to(x.dtype)


def _log_softmax(a: Attributes, logits: Tensor) -> Tensor:
    (axis,) = a.get("axes", [-1])
    wide = logits.float()
    return (wide - wide.logsumexp(axis, keepdim=True)).to(logits.dtype)


def _pad(a: Attributes, x: Tensor) -> Tensor:
    return functional.pad(x, [size for row in reversed(a["paddings"]) for size in row])


def _reduced(reduce: Callable[..., Tensor]) -> Rule:
    return lambda a, x: reduce(x, tuple(a["axes"]), keepdim=a.get("keep_dims", False))


def _of(function: Callable[..., Tensor]) -> Rule:
    return lambda a, *inputs: function(*inputs)


def _same_dtype(function: Callable[..., Tensor]) -> Rule:
    def rule(a: Attributes, x1: Tensor, x2: Tensor) -> Tensor:
        if x1.dtype != x2.dtype:
            raise TypeError(f"{x1.dtype} and {x2.dtype}")
        return function(x1, x2)

    return rule


RULES: dict[str, Rule] = {
    "Conv2D": _conv2d,
    "BatchNorm": _batch_norm,
    "MaxPoolV3": _max_pool_v3,
    "AvgPoolV2": _avg_pool_v2,
    "Pooling": _pooling,
    "AdaptiveAvgPool2d": lambda a, x: functional.adaptive_avg_pool2d(x, a["output_size"]),
    "MatMulV2": _matmul,
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "LayerNorm": _layer_norm,
    "SoftmaxV2": _softmax,
    "LogSoftmaxV2": _log_softmax,
    "GatherV2": _gather,
    "ReduceMeanD": _reduced(torch.mean),
    "ReduceSumD": _reduced(torch.sum),
    "ReduceMaxD": _reduced(torch.amax),
    "ReduceMinD": _reduced(torch.amin),
    "Add": _same_dtype(torch.add),
    "Sub": _same_dtype(torch.sub),
    "Mul": _same_dtype(torch.mul),
    "RealDiv": _same_dtype(torch.div),
    "Maximum": _same_dtype(torch.maximum),
    "Minimum": _same_dtype(torch.minimum),
    "Pow": _same_dtype(torch.pow),
    "Equal": _same_dtype(torch.eq),
    "NotEqual": _same_dtype(torch.ne),
    "Less": _same_dtype(torch.lt),
    "LessEqual": _same_dtype(torch.le),
    "Greater": _same_dtype(torch.gt),
    "GreaterEqual": _same_dtype(torch.ge),
    "LogicalAnd": _same_dtype(torch.logical_and),
    "LogicalOr": _same_dtype(torch.logical_or),
    "LogicalNot": _of(torch.logical_not),
    "SelectV2": _of(torch.where),
    "Relu": lambda a, x: x.clamp(min=0),
    "Relu6": lambda a, x: x.clamp(0, 6),
    "LeakyRelu": _leaky_relu,
    "Elu": _elu,
    "Selu": lambda a, x: _elu({"alpha": 1.67326324235, "scale": 1.05070098736}, x),
    "Sigmoid": lambda a, x: (1 / (1 + torch.exp(-x.float()))).to(x.dtype),
    "Tanh": _of(torch.tanh),
    "Swish": lambda a, x: x / (1 + torch.exp(-a.get("scale", 1.0) * x)),
    "HardSwish": lambda a, x: x * (x + 3).clamp(0, 6) / 6,
    "HardSigmoid": _hard_sigmoid,
    "ClipByValue": lambda a, x, low, high: torch.minimum(torch.maximum(x, low), high),
    "Erf": _of(torch.erf),
    "Exp": _of(torch.exp),
    "Log": _of(torch.log),
    "Sqrt": _of(torch.sqrt),
    "Rsqrt": _of(torch.rsqrt),
    "Neg": _of(torch.neg),
    "Abs": _of(torch.abs),
    "Sin": _of(torch.sin),
    "Cos": _of(torch.cos),
    "Floor": _of(torch.floor),
    "Ceil": _of(torch.ceil),
    "Sign": _of(torch.sign),
    "Square": lambda a, x: x * x,
    "Reciprocal": lambda a, x: 1 / x,
    "Reshape": lambda a, x, shape: x.reshape(shape.tolist()),
    "TransposeD": lambda a, x: x.permute(a["perm"]),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "BroadcastToD": lambda a, x: x.broadcast_to(a["shape"]),
    "TileD": lambda a, x: x.tile(a["multiples"]),
    "ConcatD": lambda a, *x: torch.cat(x, a["concat_dim"]),
    "Pack": lambda a, *x: torch.stack(x, a.get("axis", 0)),
    "SplitVD": lambda a, x: x.split(a["size_splits"], a["split_dim"]),
    "Unpack": lambda a, x: x.unbind(a.get("axis", 0)),
    "StridedSliceD": _strided_slice,
    "PadD": _pad,
    "Cast": lambda a, x: x.to(FROM_ATTRIBUTE[a["dst_type"]]),
}
"""GE's operator -> what it computes, of its attributes and its inputs."""
