"""Arithmetic, comparisons and activations, element by element, as GE operators."""

from __future__ import annotations

import math
from typing import Any

import torch

from milepost.graphs.geir.builder import Builder, Edge
from milepost.graphs.geir.operators.calls import Call, Lowering, Table, need, operand
from milepost.graphs.lowering import Unsupported


def _unary(kind: str, **attributes: Any) -> Lowering:
    return lambda b, call: b.like(kind, b.cast(call.x, call.dtype), **attributes)


def _arithmetic(kind: str, *, reverse: bool = False) -> Lowering:
    def lower(b: Builder, call: Call) -> Edge:
        need(call.dtype != torch.bool, "arithmetic of booleans")
        need(call.arguments.get("rounding_mode") is None, "division with a rounding mode")
        alpha = call.arguments.get("alpha", 1)
        first, second = (operand(b, call[name], call.dtype) for name in ("self", "other"))
        if reverse:
            first, second = second, first
        if alpha != 1:
            second = _scaled(b, second, alpha, call.dtype)
        return b.binary(kind, first, second, call.dtype)

    return lower


def _scaled(b: Builder, x: Edge, factor: float, dtype: torch.dtype) -> Edge:
    return b.binary("Mul", x, b.constant(factor, dtype), dtype)


def _shifted(b: Builder, x: Edge, summand: float) -> Edge:
    return b.binary("Add", x, b.constant(summand, x.dtype), x.dtype)


def _comparison(kind: str) -> Lowering:
    def lower(b: Builder, call: Call) -> Edge:
        x, other = call["self"], call["other"]
        if isinstance(other, Edge):
            dtype = torch.promote_types(x.dtype, other.dtype)
        else:
            dtype = torch.result_type(torch.empty(1, dtype=x.dtype), other)
        return b.binary(kind, x, operand(b, other, dtype), dtype, torch.bool)

    return lower


def _logical(kind: str) -> Lowering:
    def lower(b: Builder, call: Call) -> Edge:
        edges = [value for value in call.arguments.values() if isinstance(value, Edge)]
        need(all(edge.dtype == torch.bool for edge in edges), "logic on numbers")
        return b.one(kind, edges, call.shape, torch.bool)

    return lower


def _pow(b: Builder, call: Call) -> Edge:
    x, exponent = b.cast(call["self"], call.dtype), call["exponent"]
    if exponent == 2 and not isinstance(exponent, Edge):
        return b.like("Square", x)
    return b.binary("Pow", x, operand(b, exponent, call.dtype), call.dtype)


def _where(b: Builder, call: Call) -> Edge:
    chosen = [b.cast(call[name], call.dtype) for name in ("self", "other")]
    return b.one("SelectV2", [call["condition"], *chosen], call.shape, call.dtype)


def _masked_fill(b: Builder, call: Call) -> Edge:
    value = operand(b, call["value"], call.dtype)
    return b.one("SelectV2", [call["mask"], b.cast(value, call.dtype), call["self"]], call.shape, call.dtype)


def _clamp(b: Builder, call: Call) -> Edge:
    low, high = (call["min_val"], call["max_val"]) if "min_val" in call.arguments else (call["min"], call["max"])
    x = b.cast(call.x, call.dtype)
    if (low, high) == (0, 6) and call.dtype.is_floating_point:
        return b.like("Relu6", x)
    if low is not None and high is not None:
        return b.like("ClipByValue", x, *(b.constant(value, call.dtype) for value in (low, high)))
    kind, bound = ("Maximum", low) if high is None else ("Minimum", high)
    return b.binary(kind, x, b.constant(bound, call.dtype), call.dtype)


def _gelu(b: Builder, call: Call) -> Edge:
    """Written out: which of the two formulas GE's own Gelu computes is not public."""
    x, dtype = call.x, call.dtype
    if call["approximate"] == "tanh":
        cube = b.binary("Mul", b.like("Square", x), x, dtype)
        inner = b.binary("Add", x, _scaled(b, cube, 0.044715, dtype), dtype)
        bell = b.like("Tanh", _scaled(b, inner, math.sqrt(2 / math.pi), dtype))
    else:
        bell = b.like("Erf", _scaled(b, x, math.sqrt(0.5), dtype))
    return b.binary("Mul", _scaled(b, x, 0.5, dtype), _shifted(b, bell, 1.0), dtype)


def _silu(b: Builder, call: Call) -> Edge:
    if b.current:
        return b.like("Swish", call.x, scale=1.0)
    return b.binary("Mul", call.x, b.like("Sigmoid", call.x), call.dtype)


def _hardsigmoid(b: Builder, call: Call) -> Edge:
    if b.current:
        return b.like("HardSigmoid", call.x, alpha=1 / 6, beta=0.5)
    return _scaled(b, b.like("Relu6", _shifted(b, call.x, 3.0)), 1 / 6, call.dtype)


def _hardswish(b: Builder, call: Call) -> Edge:
    if b.current:
        return b.like("HardSwish", call.x)
    return b.binary("Mul", call.x, _hardsigmoid(b, call), call.dtype)


def _leaky_relu(b: Builder, call: Call) -> Edge:
    return b.like("LeakyRelu", call.x, negative_slope=call["negative_slope"])


def _elu(b: Builder, call: Call) -> Edge:
    return b.like("Elu", call.x, alpha=call["alpha"], scale=call["scale"], input_scale=call["input_scale"])


def _cast(b: Builder, call: Call) -> Edge:
    if call.x.dtype.is_floating_point and call.dtype == torch.bool:
        raise Unsupported("a number as a boolean")
    return b.cast(call.x, call.dtype)


_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "RealDiv"}
_COMPARISONS = {"eq": "Equal", "ne": "NotEqual", "lt": "Less", "le": "LessEqual", "gt": "Greater", "ge": "GreaterEqual"}
_UNARY = "relu tanh sigmoid erf exp log sqrt rsqrt neg abs sin cos floor ceil sign square reciprocal selu"
_OTHERS = ("Tensor", "Scalar")

TABLE: Table = {
    **{f"{name}.default": _unary(name.capitalize()) for name in _UNARY.split()},
    **{f"{name}.{kind}": _arithmetic(ge) for name, ge in _ARITHMETIC.items() for kind in _OTHERS},
    **{f"{name}.{kind}": _comparison(ge) for name, ge in _COMPARISONS.items() for kind in _OTHERS},
    **{f"rsub.{kind}": _arithmetic("Sub", reverse=True) for kind in _OTHERS},
    **{f"{name}.default": _arithmetic(ge) for name, ge in (("maximum", "Maximum"), ("minimum", "Minimum"))},
    **{f"{name}_not.default": _logical("LogicalNot") for name in ("bitwise", "logical")},
    **dict.fromkeys(("bitwise_and.Tensor", "__and__.Tensor", "logical_and.default"), _logical("LogicalAnd")),
    **dict.fromkeys(("bitwise_or.Tensor", "__or__.Tensor", "logical_or.default"), _logical("LogicalOr")),
    "pow.Tensor_Scalar": _pow,
    "pow.Tensor_Tensor": _pow,
    "where.self": _where,
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    "clamp.default": _clamp,
    "hardtanh.default": _clamp,
    "relu6.default": _unary("Relu6"),
    "gelu.default": _gelu,
    "silu.default": _silu,
    "hardsigmoid.default": _hardsigmoid,
    "hardswish.default": _hardswish,
    "leaky_relu.default": _leaky_relu,
    "elu.default": _elu,
    "_to_copy.default": _cast,
    "to.dtype": _cast,
}
"""torch's operator -> how it is said in GE's."""
