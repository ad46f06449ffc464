"""Convolutions, batch norm and pooling as MindSpore primitives, always in (batch, channels, height, width)."""

from __future__ import annotations

from typing import Any

from milepost.graphs.mindir.builder import Builder, Edge
from milepost.graphs.mindir.operators.calls import Call, Table, need, pair

NCHW = 0
"""The number by which literals name the layout."""


def _conv2d(b: Builder, call: Call) -> Edge:
    need(call.x.rank == 4, "images without a batch dimension")
    y = _convolution(b, call, call["input"], call["weight"], call.shape, pair(call["stride"]), pair(call["dilation"]))
    return _biased(b, y, call["bias"])


def _conv1d(b: Builder, call: Call) -> Edge:
    """A convolution over images that are one pixel high."""
    need(call.x.rank == 3, "signals without a batch dimension")
    x, weight = (b.reshape(edge, _with_height(edge.shape)) for edge in (call["input"], call["weight"]))
    stride, dilation = ([1, *call[name]] for name in ("stride", "dilation"))
    y = _convolution(b, call, x, weight, _with_height(call.shape), stride, dilation)
    return b.reshape(_biased(b, y, call["bias"]), call.shape)


def _with_height(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:2], 1, *shape[2:])


def _convolution(
    b: Builder, call: Call, x: Edge, weight: Edge, shape: tuple[int, ...], stride: list[int], dilation: list[int]
) -> Edge:
    pads = _pads(call["padding"], weight.shape[2:], dilation)
    if call.x.rank == 3 and not isinstance(call["padding"], str):
        pads = (0, 0, *pads[2:])
    return b.one(
        "Conv2D",
        [x, weight],
        shape,
        call.dtype,
        mode=1,
        out_channel=weight.shape[0],
        kernel_size=weight.shape[2:],
        pad_mode="pad",
        pad=pads,
        pad_list=pads,
        stride=(1, 1, *stride),
        dilation=(1, 1, *dilation),
        group=call["groups"],
        groups=call["groups"],
        format="NCHW",
    )


def _biased(b: Builder, y: Edge, bias: Edge | None) -> Edge:
    return y if bias is None else b.one("BiasAdd", [y, bias, NCHW], y.shape, y.dtype)


def _pads(padding: Any, kernel: tuple[int, ...], dilation: list[int]) -> tuple[int, ...]:
    """Top, bottom, left, right; of an odd total, the larger part is at the end, as torch does it."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return tuple(part for total in totals for part in (total // 2, total - total // 2))
    return tuple(part for size in pair(padding) for part in (size, size))


def _batch_norm(b: Builder, call: Call) -> tuple[Edge, ...]:
    x, channels = call["input"], call["input"].shape[1]
    given = [call["weight"], call["bias"], call["running_mean"], call["running_var"]]
    vectors = [
        b.filled(value, (channels,), x.dtype) if edge is None else b.cast(edge, x.dtype)
        for edge, value in zip(given, (1.0, 0.0, 0.0, 1.0), strict=True)
    ]
    need(x.rank <= 4, "batch norm over three-dimensional images")
    flat = b.reshape(x, (*x.shape, *[1] * (4 - x.rank)))
    outputs = [(flat.shape, call.dtype), *[((channels,), x.dtype)] * 4]
    y = b.op("BatchNorm", [flat, *vectors, False, float(call["eps"]), 0.1, NCHW], outputs)
    return (b.reshape(y, call.shape),)


def _max_pool2d(b: Builder, call: Call) -> Edge:
    need(set(pair(call["dilation"])) == {1}, "max pooling with a dilation")
    return _pool(b, call, "MaxPool3D", pad_mode="CALCULATED", ceil_mode=int(call["ceil_mode"]))


def _avg_pool2d(b: Builder, call: Call) -> Edge:
    return _pool(
        b,
        call,
        "AvgPool3D",
        pad_mode="PAD",
        pad=_deep(call),
        ceil_mode=bool(call["ceil_mode"]),
        count_include_pad=bool(call["count_include_pad"]),
        divisor_override=call["divisor_override"] or 0,
    )


def _pool(b: Builder, call: Call, kind: str, **attributes: Any) -> Edge:
    """Images as volumes that are one pixel deep: MindSpore's pooling of images takes no padding of so many pixels."""
    need(call.x.rank == 4, "images without a batch dimension")
    window = pair(call["kernel_size"])
    stride = pair(call["stride"], window)
    deep = b.reshape(call.x, (*call.x.shape[:2], 1, *call.x.shape[2:]))
    y = b.one(
        kind,
        [deep],
        (*call.shape[:2], 1, *call.shape[2:]),
        call.dtype,
        kernel_size=(1, 1, 1, *window),
        strides=(1, 1, 1, *stride),
        pad_list=_deep(call),
        format="NCDHW",
        **attributes,
    )
    return b.reshape(y, call.shape)


def _deep(call: Call) -> tuple[int, ...]:
    return (0, 0, *_pads(call["padding"], (), []))


def _adaptive_avg_pool2d(b: Builder, call: Call) -> Edge:
    x, size = call.x, call.shape[2:]
    need(x.rank == 4, "images without a batch dimension")
    if x.shape == call.shape:
        return x
    if size == (1, 1):
        return b.one("ReduceMean", [x, (2, 3), True], call.shape, call.dtype)
    return b.one("AdaptiveAvgPool2D", [x], call.shape, call.dtype, output_size=size)


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
"""torch's operator -> how it is said in MindSpore's primitives."""
