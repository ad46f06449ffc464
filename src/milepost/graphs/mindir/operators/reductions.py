"""Means, sums, softmax and layer norm: what runs along whole dimensions, as MindSpore primitives."""

from __future__ import annotations

import math

import torch

from milepost.graphs.mindir.builder import Builder, Edge, Literal
from milepost.graphs.mindir.operators.calls import Call, Lowering, Table


def _reduction(kind: str, *more: Literal) -> Lowering:
    def lower(b: Builder, call: Call) -> Edge:
        x, keep = b.cast(call.x, call.dtype), bool(call["keepdim"])
        return b.one(kind, [x, tuple(call.dims()), keep, *more], call.shape, call.dtype)

    return lower


def _softmax(b: Builder, call: Call) -> Edge:
    return b.like("Softmax", b.cast(call.x, call.dtype), (call.dim(),))


def _log_softmax(b: Builder, call: Call) -> Edge:
    return b.like("LogSoftmax", b.cast(call.x, call.dtype), call.dim())


def _layer_norm(b: Builder, call: Call) -> Edge:
    shape = call["normalized_shape"]
    return _normalized(b, call["input"], shape, call["weight"], call["bias"], call["eps"])


def _normalized(b: Builder, x: Edge, shape: list[int], weight: Edge | None, bias: Edge | None, epsilon: float) -> Edge:
    gamma, beta = (
        b.filled(neutral, tuple(shape), x.dtype) if edge is None else edge
        for edge, neutral in ((weight, 1.0), (bias, 0.0))
    )
    first = x.rank - len(shape)
    statistic = ((*x.shape[:first], *[1] * len(shape)), torch.float32)
    outputs: list[tuple[tuple[int, ...], torch.dtype]] = [(x.shape, x.dtype), statistic, statistic]
    return b.op("LayerNorm", [x, gamma, beta, first, first, float(epsilon)], outputs)


def _group_norm(b: Builder, call: Call) -> Edge:
    """A layer norm of each group, and then the channels' own factors."""
    x, groups = call["input"], call["num_groups"]
    rows = (x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    y = b.reshape(_normalized(b, b.reshape(x, rows), [rows[-1]], None, None, call["eps"]), x.shape)
    per_channel = (x.shape[1], *[1] * (x.rank - 2))
    for kind, edge in (("Mul", call["weight"]), ("Add", call["bias"])):
        if edge is not None:
            y = b.binary(kind, y, b.reshape(edge, per_channel), y.dtype)
    return y


TABLE: Table = {
    "mean.dim": _reduction("ReduceMean"),
    "sum.dim_IntList": _reduction("ReduceSum", False),
    "amax.default": _reduction("ReduceMax"),
    "amin.default": _reduction("ReduceMin"),
    "softmax.int": _softmax,
    "_softmax.default": _softmax,
    "log_softmax.int": _log_softmax,
    "_log_softmax.default": _log_softmax,
    "layer_norm.default": _layer_norm,
    "group_norm.default": _group_norm,
}
"""torch's operator -> how it is said in MindSpore's primitives."""
