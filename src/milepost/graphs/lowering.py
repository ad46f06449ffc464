"""A module's operators in terms of a format's, by the format's table. No operator and no format is known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from milepost.errors import GraphError
from milepost.graphs import frontend
from milepost.graphs.frontend import Value

FILE_LIMIT = 2**31 - 1
"""The most bytes of a protobuf message, which each of these files is."""


class Unsupported(Exception):  # noqa: N818 - a reason, collected with the others; never the user's error
    """The format cannot express this call; the text says why."""


class Edge(Protocol):
    """A tensor of a graph in the making."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """The number of dimensions."""


E = TypeVar("E", bound=Edge)
E_co = TypeVar("E_co", bound=Edge, covariant=True)


class Builder(Protocol[E_co]):
    """What a format's builder does for `lowered`; the functions of its table know it whole."""

    module: str

    def data(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> E_co:
        """The next argument of the model."""

    def weight(self, name: str, tensor: Tensor) -> E_co:
        """An entry of the state dict, under its name."""

    def held(self, name: str, tensor: Tensor) -> E_co:
        """Another tensor that the module holds, or that it computes from no input."""

    def stand_in(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> E_co:
        """What stands for the result of an unsupported operator while the others are looked through."""


B = TypeVar("B", bound=Builder[Any])


@dataclass(frozen=True)
class Call(Generic[E]):
    """One call of a torch operator: the arguments by name, tensors as edges, and what torch says that comes out."""

    arguments: dict[str, Any]
    outputs: tuple[Value | None, ...]

    def __getitem__(self, name: str) -> Any:
        """One argument."""
        return self.arguments[name]

    @property
    def x(self) -> E:
        """The first argument."""
        edge: E = next(iter(self.arguments.values()))
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


def lowered(
    traced: frontend.Graph,
    builder: B,
    table: Mapping[str, Callable[[B, Call[E]], E | tuple[E, ...]]],
    *,
    file_format: str,
    operators: str,
) -> list[E]:
    """Say a module in a format's operators; return the edges of its results.

    Args:
        traced: The module.
        builder: Takes the operators.
        table: torch's operator -> how it is said.
        file_format: The format's name, for messages.
        operators: What operators there are, for messages.

    Raises:
        GraphError: Some cannot be expressed; all of them are listed, with the module in which each stands.
    """
    edges: dict[str, E] = {value.name: builder.data(value.name, value.shape, value.dtype) for value in traced.inputs}
    problems = []
    for take, tensors in ((builder.weight, traced.weights), (builder.held, traced.constants)):
        for name, tensor in tensors.items():
            try:
                edges[name] = take(name, tensor)
            except Unsupported as reason:
                problems.append(f"{name}: {reason}")
                edges[name] = builder.stand_in(name, tuple(tensor.shape), tensor.dtype)
    for node in traced.nodes:
        try:
            edges.update(_results(builder, table, node, edges))
        except Unsupported as reason:
            problems.append(f"{node.place}: aten.{node.op}" + (f" ({reason})" if str(reason) else ""))
            values = [value for value in node.outputs if value is not None]
            edges.update({value.name: builder.stand_in(value.name, value.shape, value.dtype) for value in values})
    if problems:
        raise GraphError(
            traced.name,
            found=f"operators that {file_format} cannot express ({len(problems)}): " + "; ".join(problems),
            expected=operators,
            remedy="Replace them in the network or export to ONNX; nothing was written.",
        )
    return [edges[value.name] for value in traced.outputs]


def _results(builder: B, table: Mapping[str, Any], node: frontend.Node, edges: Mapping[str, E]) -> dict[str, E]:
    lowering = table.get(node.op)
    if lowering is None:
        raise Unsupported
    builder.module = node.module
    arguments: dict[str, Any] = pytree.tree_map(
        lambda leaf: edges[leaf.name] if isinstance(leaf, Value) else leaf, node.arguments
    )
    result = lowering(builder, Call(arguments, node.outputs))
    results = {}
    for value, edge in zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=False):
        assert value is not None
        assert (edge.shape, edge.dtype) == (value.shape, value.dtype), f"{node.op}: {edge} instead of {value}"
        results[value.name] = edge
    return results


def hold_to_limit(nbytes: int, where: str, file_format: str) -> None:
    """Raise `GraphError` if a file would be larger than protobuf allows."""
    if nbytes > FILE_LIMIT:
        raise GraphError(
            where,
            found=f"{nbytes:,} bytes",
            expected=f"at most {FILE_LIMIT:,}, which is what one {file_format} file holds",
            remedy="Export a smaller part of the network; nothing was written.",
        )


def broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of two tensors together, where a dimension of 1 fits every other."""
    shape: torch.Size = torch.broadcast_shapes(first, second)  # type: ignore[no-untyped-call]
    return tuple(shape)
