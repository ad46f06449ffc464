"""Convolutions, batch norm and pooling as GE operators. The layout is always (batch, channels, height, width)."""

from __future__ import annotations

from typing import Any

import torch

from milepost.graphs.geir.builder import NCHW, Builder, Edge
from milepost.graphs.geir.operators.calls import Call, Table, need, pair
from milepost.graphs.lowering import Unsupported


def _conv2d(b: Builder, call: Call) -> Edge:
    need(call.x.rank == 4, "images without a batch dimension")
    return _convolution(b, call["input"], call["weight"], call["bias"], call, call.shape, _pads(call))


def _conv1d(b: Builder, call: Call) -> Edge:
    """A convolution over images that are one pixel high."""
    need(call.x.rank == 3, "signals without a batch dimension")
    x, weight = (b.reshape(edge, _with_height(edge.shape)) for edge in (call["input"], call["weight"]))
    y = _convolution(b, x, weight, call["bias"], call, _with_height(call.shape), [0, 0, *_pads(call)[2:]])
    return b.reshape(y, call.shape)


def _with_height(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 1, *shape[2:])


def _convolution(b: Builder, x: Edge, weight: Edge, bias: Edge | None, call: Call, shape: Any, pads: Any) -> Edge:
    one_high = len(call["stride"]) == 1 and call.x.rank == 3
    strides, dilations = (([1, *call[name]] if one_high else pair(call[name])) for name in ("stride", "dilation"))
    return b.one(
        "Conv2D",
        [x, weight, bias],
        shape,
        call.dtype,
        strides=[1, 1, *strides],
        pads=pads,
        dilations=[1, 1, *dilations],
        groups=call["groups"],
        data_format=NCHW,
        offset_x=0,
    )


def _pads(call: Call) -> list[int]:
    """Top, bottom, left, right; of an odd total, the larger part is at the end, as torch does it."""
    padding = call["padding"]
    if padding == "valid":
        return [0] * 4
    if padding == "same":
        kernel, dilation = pair(call["weight"].shape[2:]), pair(call["dilation"])
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [part for total in totals for part in (total // 2, total - total // 2)]
    return [part for size in pair(padding) for part in (size, size)]


def _batch_norm(b: Builder, call: Call) -> tuple[Edge, ...]:
    """GE wants statistics and affine parameters in float32, and four dimensions."""
    x, channels = call["input"], call["input"].shape[1]
    given = [call["weight"], call["bias"], call["running_mean"], call["running_var"]]
    neutral = (1.0, 0.0, 0.0, 1.0)
    vectors = [
        b.filled(value, channels, torch.float32) if edge is None else b.cast(edge, torch.float32)
        for edge, value in zip(given, neutral, strict=True)
    ]
    rest = x.shape[2:]
    need(len(rest) <= 2, "batch norm over three-dimensional images")
    flat = b.reshape(x, (*x.shape[:2], *rest, *[1] * (2 - len(rest))))
    statistics = [((channels,), torch.float32)] * 4
    outputs = [(flat.shape, call.dtype), *statistics]
    attributes = {"epsilon": call["eps"], "data_format": NCHW, "is_training": False}
    y = b.op("BatchNorm", [flat, *vectors], outputs, **attributes)[0]
    return (b.reshape(y, call.shape),)


def _max_pool2d(b: Builder, call: Call) -> Edge:
    need(set(pair(call["dilation"])) == {1}, "max pooling with a dilation")
    return _pool(b, call, "MaxPoolV3", mode=0)


def _avg_pool2d(b: Builder, call: Call) -> Edge:
    need(call["divisor_override"] is None, "average pooling with divisor_override")
    counts_padding = call["count_include_pad"] or set(pair(call["padding"])) == {0}
    if not b.current:
        need(counts_padding, "average pooling with count_include_pad=False, in the operators of 2020")
        return _pool(b, call, "AvgPoolV2", mode=1)
    return _pool(b, call, "AvgPoolV2", mode=1, exclusive=not counts_padding)


def _pool(b: Builder, call: Call, kind: str, *, mode: int, **attributes: Any) -> Edge:
    need(call.x.rank == 4, "images without a batch dimension")
    window = pair(call["kernel_size"])
    stride, pads = pair(call["stride"], window), _pads(call)
    if not b.current:
        # Pooling counts the other way round: 0 rounds up, 1 rounds down.
        rounding = int(not call["ceil_mode"])
        return b.one(
            "Pooling",
            [call.x],
            call.shape,
            call.dtype,
            mode=mode,
            global_pooling=False,
            window=window,
            stride=stride,
            pad=pads,
            ceil_mode=rounding,
            data_format=NCHW,
        )
    return b.one(
        kind,
        [call.x],
        call.shape,
        call.dtype,
        ksize=[1, 1, *window],
        strides=[1, 1, *stride],
        padding_mode="CALCULATED",
        pads=pads,
        data_format=NCHW,
        global_pooling=False,
        ceil_mode=call["ceil_mode"],
        **attributes,
    )


def _adaptive_avg_pool2d(b: Builder, call: Call) -> Edge:
    x, size = call.x, call.shape[2:]
    need(x.rank == 4, "images without a batch dimension")
    if x.shape == call.shape:
        return x
    if size == (1, 1):
        return b.one("ReduceMeanD", [x], call.shape, call.dtype, axes=[2, 3], keep_dims=True)
    windows = [whole // parts for whole, parts in zip(x.shape[2:], size, strict=True)]
    if [window * parts for window, parts in zip(windows, size, strict=True)] == list(x.shape[2:]):
        plain = {"kernel_size": windows, "stride": windows, "padding": [0, 0], "ceil_mode": False}
        regular = Call({"self": x, **plain, "count_include_pad": True, "divisor_override": None}, call.outputs)
        return _avg_pool2d(b, regular)
    if not b.current:
        raise Unsupported("adaptive pooling to a size that does not divide the image's, in the operators of 2020")
    return b.one("AdaptiveAvgPool2d", [x], call.shape, call.dtype, output_size=list(size))


TABLE: Table = {
    "conv2d.default": _conv2d,
    "conv2d.padding": _conv2d,
    "conv1d.default": _conv1d,
    "conv1d.padding": _conv1d,
    "_native_batch_norm_legit_no_training.default": _batch_norm,
    "max_pool2d.default": _max_pool2d,
    "avg_pool2d.default": _avg_pool2d,
    "adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
}
"""torch's operator -> how it is said in GE's."""
