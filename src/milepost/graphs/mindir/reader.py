"""The bytes of a MindIR file -> nodes, literals and weights. What primitives mean is not known here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from milepost.errors import GraphError
from milepost.graphs.mindir.dtypes import FROM_PROTO
from milepost.graphs.mindir.schema import KINDS, message

Stated = tuple[tuple[int, ...], torch.dtype]
"""The shape and dtype of a tensor, as the file says."""


@dataclass(frozen=True)
class Node:
    """One call of a primitive: `inputs` are names of nodes, of inputs of the graph, and of `Graph.values`."""

    name: str
    type: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any]
    results: tuple[Stated, ...]


@dataclass(frozen=True)
class Graph:
    """A MindIR file.

    Args:
        name: The name of the graph.
        inputs: The arguments of the model, in order.
        weights: The parameters, under their names in the state dict.
        values: Every literal, constant and parameter, under its name in the graph.
        nodes: The calls, each after what it needs.
        output: The name of the result, which may be a tuple.
    """

    name: str
    inputs: dict[str, Stated]
    weights: dict[str, Tensor]
    values: dict[str, Any]
    nodes: tuple[Node, ...]
    output: str

    @property
    def counts(self) -> Counter[str]:
        """How many nodes there are of each primitive."""
        return Counter(node.type for node in self.nodes)


def parse(content: bytes, where: str) -> Graph:
    """Read a whole file.

    Raises:
        GraphError: These are not the bytes of a MindIR file of one graph.
    """
    kind = message("ModelProto")  # tells of an absent protobuf, with the extra that has it

    from google.protobuf.message import DecodeError

    try:
        model = kind.FromString(content)
    except DecodeError as error:
        raise _unreadable(where, "bytes that are not a MindIR model") from error
    return graph_of(model, model.graph, model.graph.parameter, where)


def graph_of(model: Any, graph: Any, parameters: Iterable[Any], where: str) -> Graph:
    """A graph of messages without parameters, and its parameters, which may be parsed one by one to save memory."""
    if len(graph.output) != 1:
        raise _unreadable(where, f"{len(graph.output)} outputs")
    primitives = {proto.name: proto for proto in model.primitives}
    values: dict[str, Any] = {}
    weights = {}
    for proto in parameters:
        values[proto.name] = weights[proto.ref_key or proto.name] = _tensor(proto, where)
    nodes = []
    for proto in graph.node:
        if proto.op_type == "Constant":
            values[proto.output[0]] = _literal(proto.attribute[0], f"{where}, literal {proto.name!r}")
        else:
            nodes.append(_node(proto, primitives, f"{where}, node {proto.name!r}"))
    inputs = {proto.name: _stated(proto.tensor[0], where) for proto in graph.input}
    return Graph(graph.name, inputs, weights, values, tuple(nodes), graph.output[0].name)


def _node(proto: Any, primitives: dict[str, Any], where: str) -> Node:
    primitive = primitives.get(proto.op_type.removeprefix("REF::"))
    if primitive is None or not proto.attribute:
        raise _unreadable(where, f"the primitive {proto.op_type!r}, or a node that states no shape")
    attributes = {one.name: _literal(one, f"{where}, attribute {one.name!r}") for one in primitive.attribute}
    (shape,) = (one for one in proto.attribute if one.name == "shape")
    stated = [value.tensors[0] for value in shape.values] if shape.type == KINDS["TUPLE"] else shape.tensors
    results = tuple(_stated(tensor, where) for tensor in stated)
    return Node(proto.name, primitive.op_type, tuple(proto.input), attributes, results)


def _literal(proto: Any, where: str) -> Any:
    if proto.type in (KINDS["TUPLE"], KINDS["LIST"]):
        return tuple(_literal(value, where) for value in proto.values)
    if proto.type == KINDS["TENSORS"]:
        return _tensor(proto.tensors[0], where)
    if proto.type == KINDS["STRING"]:
        return (proto.strings[0] if proto.strings else proto.s).decode(errors="replace")
    if proto.type == KINDS["FLOAT"]:
        return proto.floats[0] if proto.floats else proto.f
    value = proto.ints[0] if proto.ints else proto.i
    if proto.type == KINDS["BOOL"]:
        return bool(value)
    if proto.type == KINDS["INT64"]:
        return value
    raise _unreadable(where, f"a value of kind {proto.type}")


def _stated(proto: Any, where: str) -> Stated:
    dtype = FROM_PROTO.get(proto.data_type)
    if dtype is None or min(proto.dims, default=0) < 0:
        raise _unreadable(where, f"element type {proto.data_type} and shape {tuple(proto.dims)}")
    return tuple(proto.dims), dtype


def _tensor(proto: Any, where: str) -> Tensor:
    shape, dtype = _stated(proto, where)
    data = bytearray(proto.raw_data)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise _unreadable(where, f"{len(data)} bytes for {dtype} of shape {shape}")
    return torch.frombuffer(data, dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def _unreadable(where: str, found: str) -> GraphError:
    return GraphError(
        where,
        found=found,
        expected="a MindIR file that Milepost wrote",
        remedy="Export the network again.",
    )
