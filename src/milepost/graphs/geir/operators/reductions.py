"""Means, sums, softmax and layer norm: what runs along whole dimensions, as GE operators."""

from __future__ import annotations

import math
from typing import Any

import torch

from milepost.graphs.geir.builder import Builder, Edge
from milepost.graphs.geir.operators.calls import Call, Lowering, Table


def _reduction(kind: str) -> Lowering:
    def lower(b: Builder, call: Call) -> Edge:
        keep: Any = call["keepdim"]
        return b.one(kind, [b.cast(call.x, call.dtype)], call.shape, call.dtype, axes=call.dims(), keep_dims=keep)

    return lower


def _softmax(b: Builder, call: Call) -> Edge:
    return b.like("SoftmaxV2", b.cast(call.x, call.dtype), axes=[call.dim()])


def _log_softmax(b: Builder, call: Call) -> Edge:
    return b.like("LogSoftmaxV2", b.cast(call.x, call.dtype), axes=[call.dim()])


def _layer_norm(b: Builder, call: Call) -> Edge:
    shape = call["normalized_shape"]
    return _normalized(b, call["input"], shape, call["weight"], call["bias"], call["eps"])


def _normalized(b: Builder, x: Edge, shape: list[int], weight: Edge | None, bias: Edge | None, epsilon: float) -> Edge:
    gamma, beta = (
        b.reshape(b.filled(neutral, math.prod(shape), x.dtype), shape) if edge is None else edge
        for edge, neutral in ((weight, 1.0), (bias, 0.0))
    )
    first = x.rank - len(shape)
    statistic = ((*x.shape[:first], *[1] * len(shape)), x.dtype)
    outputs: list[tuple[tuple[int, ...], torch.dtype]] = [(x.shape, x.dtype), statistic, statistic]
    axes = {"begin_norm_axis": first, "begin_params_axis": first}
    return b.op("LayerNorm", [x, gamma, beta], outputs, **axes, epsilon=epsilon)[0]


def _group_norm(b: Builder, call: Call) -> Edge:
    """A layer norm of each group, and then the channels' own factors: GE's GroupNorm changed its meaning over time."""
    x, groups = call["input"], call["num_groups"]
    rows = (x.shape[0], groups, math.prod(x.shape[1:]) // groups)
    y = b.reshape(_normalized(b, b.reshape(x, rows), [rows[-1]], None, None, call["eps"]), x.shape)
    per_channel = (x.shape[1], *[1] * (x.rank - 2))
    for kind, edge in (("Mul", call["weight"]), ("Add", call["bias"])):
        if edge is not None:
            y = b.binary(kind, y, b.reshape(edge, per_channel), y.dtype)
    return y


TABLE: Table = {
    "mean.dim": _reduction("ReduceMeanD"),
    "sum.dim_IntList": _reduction("ReduceSumD"),
    "amax.default": _reduction("ReduceMaxD"),
    "amin.default": _reduction("ReduceMinD"),
    "softmax.int": _softmax,
    "_softmax.default": _softmax,
    "log_softmax.int": _log_softmax,
    "_log_softmax.default": _log_softmax,
    "layer_norm.default": _layer_norm,
    "group_norm.default": _group_norm,
}
"""torch's operator -> how it is said in GE's."""
