"""Arithmetic, comparisons and activations, element by element, as MindSpore primitives."""

from __future__ import annotations

import math

import torch

from milepost.graphs.mindir.builder import Builder, Edge, Literal
from milepost.graphs.mindir.operators.calls import Call, Lowering, Table, need, operand


def _unary(kind: str, **attributes: Literal) -> Lowering:
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
            second = scaled(b, second, alpha, call.dtype)
        return b.binary(kind, first, second, call.dtype)

    return lower


def scaled(b: Builder, x: Edge, factor: float, dtype: torch.dtype) -> Edge:
    """`x` times a number."""
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
    return b.one("Select", [call["condition"], *chosen], call.shape, call.dtype)


def _masked_fill(b: Builder, call: Call) -> Edge:
    value = b.cast(operand(b, call["value"], call.dtype), call.dtype)
    return b.one("Select", [call["mask"], value, call["self"]], call.shape, call.dtype)


def _clamp(b: Builder, call: Call) -> Edge:
    low, high = (call["min_val"], call["max_val"]) if "min_val" in call.arguments else (call["min"], call["max"])
    x = b.cast(call.x, call.dtype)
    if (low, high) == (0, 6) and call.dtype.is_floating_point:
        return b.like("ReLU6", x)
    for kind, bound in (("Maximum", low), ("Minimum", high)):
        if bound is not None:
            x = b.binary(kind, x, b.constant(bound, call.dtype), call.dtype)
    return x


def _gelu(b: Builder, call: Call) -> Edge:
    """Written out. (1 + tanh u) / 2 is sigmoid 2u, which MindSpore computes to more digits on a CPU than tanh."""
    x, dtype = call.x, call.dtype
    if call["approximate"] == "tanh":
        cube = b.binary("Mul", b.like("Square", x), x, dtype)
        inner = b.binary("Add", x, scaled(b, cube, 0.044715, dtype), dtype)
        share = b.like("Sigmoid", scaled(b, inner, 2 * math.sqrt(2 / math.pi), dtype))
        return b.binary("Mul", x, share, dtype)
    bell = b.like("Erf", scaled(b, x, math.sqrt(0.5), dtype))
    return b.binary("Mul", scaled(b, x, 0.5, dtype), _shifted(b, bell, 1.0), dtype)


def _leaky_relu(b: Builder, call: Call) -> Edge:
    x, zero = call.x, b.constant(0.0, call.dtype)
    below = scaled(b, b.binary("Minimum", x, zero, call.dtype), call["negative_slope"], call.dtype)
    return b.binary("Add", b.like("ReLU", x), below, call.dtype)


def _elu(b: Builder, call: Call) -> Edge:
    return _exponential(b, call.x, call["alpha"], call["scale"], call["input_scale"])


def _selu(b: Builder, call: Call) -> Edge:
    """The constants of Klambauer et al., https://arxiv.org/abs/1706.02515."""
    return _exponential(b, call.x, 1.6732632423543772, 1.0507009873554805, 1.0)


def _exponential(b: Builder, x: Edge, alpha: float, scale: float, input_scale: float) -> Edge:
    """Written out: MindSpore's Elu knows none of these numbers but alpha, and that as 1 only."""
    below = scaled(b, b.binary("Minimum", x, b.constant(0.0, x.dtype), x.dtype), input_scale, x.dtype)
    below = scaled(b, b.like("Expm1", below), alpha * scale, x.dtype)
    return b.binary("Add", scaled(b, b.like("ReLU", x), scale, x.dtype), below, x.dtype)


def _cast(b: Builder, call: Call) -> Edge:
    need(call.dtype != torch.bool or not call.x.dtype.is_floating_point, "a number as a boolean")
    return b.cast(call.x, call.dtype)


_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "RealDiv"}
_COMPARISONS = {"eq": "Equal", "ne": "NotEqual", "lt": "Less", "le": "LessEqual", "gt": "Greater", "ge": "GreaterEqual"}
_UNARY = "tanh sigmoid erf exp sqrt rsqrt neg abs sin cos floor ceil sign square reciprocal"
_ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6", "silu": "SiLU", "hardsigmoid": "HSigmoid", "hardswish": "HSwish"}
_OTHERS = ("Tensor", "Scalar")

TABLE: Table = {
    **{f"{name}.default": _unary(name.capitalize()) for name in _UNARY.split()},
    **{f"{name}.default": _unary(kind) for name, kind in _ACTIVATIONS.items()},
    **{f"{name}.{kind}": _arithmetic(ours) for name, ours in _ARITHMETIC.items() for kind in _OTHERS},
    **{f"{name}.{kind}": _comparison(ours) for name, ours in _COMPARISONS.items() for kind in _OTHERS},
    **{f"rsub.{kind}": _arithmetic("Sub", reverse=True) for kind in _OTHERS},
    **{f"{name}.default": _arithmetic(name.capitalize()) for name in ("maximum", "minimum")},
    **{f"{name}_not.default": _logical("LogicalNot") for name in ("bitwise", "logical")},
    **dict.fromkeys(("bitwise_and.Tensor", "__and__.Tensor", "logical_and.default"), _logical("LogicalAnd")),
    **dict.fromkeys(("bitwise_or.Tensor", "__or__.Tensor", "logical_or.default"), _logical("LogicalOr")),
    "log.default": _unary("Log", base=-1.0, scale=1.0, shift=0.0),
    "pow.Tensor_Scalar": _pow,
    "pow.Tensor_Tensor": _pow,
    "where.self": _where,
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    "clamp.default": _clamp,
    "hardtanh.default": _clamp,
    "gelu.default": _gelu,
    "leaky_relu.default": _leaky_relu,
    "elu.default": _elu,
    "selu.default": _selu,
    "_to_copy.default": _cast,
    "to.dtype": _cast,
}
"""torch's operator -> how it is said in MindSpore's primitives."""
