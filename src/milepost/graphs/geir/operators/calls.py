"""One call of a torch operator, as the tables of this folder see it. No operator is known here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from milepost.graphs import lowering
from milepost.graphs.geir.builder import Builder, Edge
from milepost.graphs.lowering import need, pair

__all__ = ["Call", "Lowering", "Result", "Table", "need", "operand", "pair"]

Call = lowering.Call[Edge]
Result = Edge | tuple[Edge, ...]
Lowering = Callable[[Builder, Call], Result]
Table = dict[str, Lowering]


def operand(b: Builder, value: Any, dtype: torch.dtype) -> Edge:
    """A tensor, or a number as a constant of `dtype`."""
    return value if isinstance(value, Edge) else b.constant(value, dtype)
