"""The bytes of a GEIR file -> a graph that people and programs read. What operators mean is not known here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from milepost.errors import GraphError
from milepost.graphs.geir.dtypes import FROM_PROTO
from milepost.graphs.geir.schema import message

_LISTS = {1: "s", 2: "i", 3: "f", 4: "b", 5: "bt", 10: "dt"}


@dataclass(frozen=True)
class Desc:
    """What a file says of one tensor; `dtype` is None where it names none that torch has."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    layout: str


@dataclass(frozen=True)
class Op:
    """One op: its inputs as pairs of producer and output, and its attributes as Python values.

    The content of a Const is the attribute ``value``, a tensor.
    """

    name: str
    type: str
    inputs: tuple[tuple[str, int], ...]
    input_descs: tuple[Desc, ...]
    output_descs: tuple[Desc, ...]
    attributes: dict[str, Any]

    def __str__(self) -> str:
        fed = ", ".join(f"{name}:{index}" for name, index in self.inputs)
        shapes = ", ".join(f"{str(desc.dtype).removeprefix('torch.')}{list(desc.shape)}" for desc in self.output_descs)
        told = {name: value for name, value in self.attributes.items() if name != "value" and not name.startswith("_")}
        words = "".join(f" {name}={value!r}" for name, value in sorted(told.items()))
        return f"{self.name} = {self.type}({fed}){words} -> {shapes}"


@dataclass(frozen=True)
class Graph:
    """A GEIR file as a readable graph.

    Args:
        name: The name of the graph.
        ops: Every op, in the file's order.
        outputs: The results, as pairs of producer and output.
    """

    name: str
    ops: tuple[Op, ...]
    outputs: tuple[tuple[str, int], ...]

    @property
    def inputs(self) -> tuple[Op, ...]:
        """The Data ops, in the order of the arguments."""
        data = [op for op in self.ops if op.type == "Data"]
        return tuple(sorted(data, key=lambda op: int(op.attributes.get("index", 0))))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The contents of the Const ops by name."""
        return {op.name: op.attributes["value"] for op in self.ops if op.type in ("Const", "Constant")}

    @property
    def counts(self) -> Counter[str]:
        """How many ops there are of each type."""
        return Counter(op.type for op in self.ops)

    def __str__(self) -> str:
        return "\n".join(map(str, self.ops))


def parse(content: bytes, where: str) -> Graph:
    """Read a whole file.

    Raises:
        GraphError: These are not the bytes of a GEIR file.
    """
    from google.protobuf.message import DecodeError

    try:
        model = message("ModelDef").FromString(content)
    except DecodeError as error:
        raise _unreadable(where, "bytes that are not a GE model") from error
    if not model.graph or not model.graph[0].op:
        raise _unreadable(where, "a file without a graph")
    graph = model.graph[0]
    return graph_of(graph, graph.op, where)


def graph_of(graph: Any, ops: Iterable[Any], where: str) -> Graph:
    """A graph of a message without ops, and its ops, which may be parsed one by one to save memory."""
    read = tuple(_op(proto, where) for proto in ops)
    gathered = [op.inputs for op in read if op.type == "NetOutput"]
    outputs = gathered[0] if gathered else tuple(_edge(text, where) for text in graph.output)
    return Graph(graph.name, read, outputs)


def _op(proto: Any, where: str) -> Op:
    place = f"{where}, op {proto.name!r}"
    return Op(
        proto.name,
        proto.type,
        tuple(edge for text in proto.input if text and (edge := _edge(text, place))[1] >= 0),
        tuple(map(_desc, proto.input_desc)),
        tuple(map(_desc, proto.output_desc)),
        {name: _attribute(proto.attr[name], f"{place}, attribute {name!r}") for name in sorted(proto.attr)},
    )


def _edge(text: str, where: str) -> tuple[str, int]:
    producer, _, index = text.rpartition(":")
    if not producer or not index.removeprefix("-").isdecimal():
        raise _unreadable(where, f"the edge {text!r}")
    return producer, int(index)


def _desc(proto: Any) -> Desc:
    return Desc(tuple(proto.shape.dim), FROM_PROTO.get(proto.dtype), proto.layout)


def _attribute(proto: Any, where: str) -> Any:
    kind = proto.WhichOneof("value")
    if kind == "list":
        values = list(getattr(proto.list, _LISTS.get(proto.list.val_type, "i")))
        return [value.decode(errors="replace") for value in values] if proto.list.val_type == 1 else values
    if kind == "list_list_int":
        return [list(row.list_i) for row in proto.list_list_int.list_list_i]
    if kind == "s":
        return proto.s.decode(errors="replace")
    if kind == "t":
        return _tensor(proto.t, where)
    return None if kind is None else getattr(proto, kind)


def _tensor(proto: Any, where: str) -> Tensor:
    desc, data = _desc(proto.desc), bytearray(proto.data)
    if desc.dtype is None or min(desc.shape, default=0) < 0:
        raise _unreadable(where, f"element type {proto.desc.dtype} and shape {desc.shape}")
    if len(data) != math.prod(desc.shape) * desc.dtype.itemsize:
        raise _unreadable(where, f"{len(data)} bytes for {desc.dtype} of shape {desc.shape}")
    return (
        torch.frombuffer(data, dtype=desc.dtype).reshape(desc.shape)
        if data
        else torch.empty(desc.shape, dtype=desc.dtype)
    )


def _unreadable(where: str, found: str) -> GraphError:
    return GraphError(
        where,
        found=found,
        expected="a file that GE, MindSpore (AIR, GEIR) or Milepost wrote",
        remedy="Export the network again, or give another file.",
    )
