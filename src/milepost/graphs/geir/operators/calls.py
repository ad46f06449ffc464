"""One call of a torch operator, as the tables of this folder see it. No operator is known here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from milepost.graphs.frontend import Value
from milepost.graphs.geir.builder import Builder, Edge, Unsupported

Result = Edge | tuple[Edge, ...]
Lowering = Callable[[Builder, "Call"], Result]
Table = dict[str, Lowering]
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """The arguments by name, tensors as `Edge`s, and what torch says that comes out."""

    arguments: dict[str, Any]
    outputs: tuple[Value | None, ...]

    def __getitem__(self, name: str) -> Any:
        """One argument."""
        return self.arguments[name]

    @property
    def x(self) -> Edge:
        """The first argument."""
        edge: Edge = next(iter(self.arguments.values()))
        return edge

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return self._first.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first output."""
        return self._first.dtype

    @property
    def _first(self) -> Value:
        first = self.outputs[0]
        assert first is not None
        return first

    def dim(self, name: str = "dim") -> int:
        """A dimension of the first argument, counted from the front."""
        number: int = self[name]
        return number % max(self.x.rank, 1)

    def dims(self, name: str = "dim") -> list[int]:
        """Dimensions of the first argument; none given means all."""
        rank = self.x.rank
        given = self[name]
        if isinstance(given, int):
            given = [given]
        return sorted(number % max(rank, 1) for number in given) if given else list(range(rank))


def need(condition: bool, reason: str) -> None:
    """Refuse the call unless `condition`."""
    if not condition:
        raise Unsupported(reason)


def pair(value: Any, default: Any = None) -> list[int]:
    """Two numbers, height and width, of one number or a list of one or two."""
    values = [value] if isinstance(value, int) else list(value) or list(default or [])
    return values * 2 if len(values) == 1 else values


def operand(b: Builder, value: Any, dtype: torch.dtype) -> Edge:
    """A tensor, or a number as a constant of `dtype`."""
    return value if isinstance(value, Edge) else b.constant(value, dtype)
