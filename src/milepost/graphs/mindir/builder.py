"""MindSpore's primitives, one by one -> the bytes of a MindIR file. No torch operator is known here.

The rules: a node names its primitive as ``REF::`` and one of the model's primitives; each literal is a node of the type
Constant; several results of a primitive are one tuple, of which TupleGetItem takes one; names have no colon, at which
MindSpore cuts them; weights are parameters, with their name in the state dict as `ref_key`. Large contents are not
copied: the file is a list of pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from milepost.format.wire import bytes_head
from milepost.graphs.frontend import distinct
from milepost.graphs.lowering import Unsupported, broadcast
from milepost.graphs.mindir.dtypes import TO_PROTO, TO_TYPE_ID
from milepost.graphs.mindir.primitives import PRIMITIVES
from milepost.graphs.mindir.schema import KINDS, message
from milepost.state.tensors import content_of

Content = bytes | memoryview
Literal = bool | int | float | str | tuple[Any, ...]

MINDSPORE = "2.10.0"
"""The version whose primitives these are."""


@dataclass(eq=False)
class Edge:
    """A tensor of the graph, under the name of what gives it."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)


@dataclass
class Builder:
    """A graph in the making."""

    module: str = ""
    _inputs: list[Edge] = field(default_factory=list)
    _weights: dict[str, tuple[str, Tensor]] = field(default_factory=dict)
    _nodes: list[Any] = field(default_factory=list)
    _primitives: dict[str, Any] = field(default_factory=dict)
    _literals: dict[str, str] = field(default_factory=dict)
    _numbers: dict[Any, Edge] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)

    def data(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Edge:
        """The next argument of the model."""
        self._inputs.append(self._edge(name, shape, dtype))
        return self._inputs[-1]

    def weight(self, name: str, tensor: Tensor) -> Edge:
        """A parameter with the content of `tensor`, which is not copied."""
        edge = self._edge(name, tuple(tensor.shape), tensor.dtype)
        self._weights[edge.name] = (name, tensor)
        return edge

    def stand_in(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Edge:
        """An edge of no node."""
        return Edge(name, shape, dtype)

    def constant(self, value: float, dtype: torch.dtype) -> Edge:
        """A tensor of one number and no dimension; equal ones are written once."""
        return self.filled(value, (), dtype)

    def filled(self, value: float, shape: tuple[int, ...], dtype: torch.dtype) -> Edge:
        """A tensor of equal elements; equal ones are written once."""
        key = (repr(value), shape, dtype)
        if key not in self._numbers:
            self._numbers[key] = self.held("constant", torch.full(shape, value, dtype=dtype))
        return self._numbers[key]

    def held(self, name: str, tensor: Tensor) -> Edge:
        """A tensor that is a part of the graph, not a parameter."""
        edge = self._edge(name, tuple(tensor.shape), tensor.dtype)
        attribute = message("AttributeProto")(name="value", type=KINDS["TENSORS"])
        attribute.tensors.append(_stated(edge))
        attribute.tensors[0].raw_data = bytes(content_of(tensor))
        self._nodes.append(_constant(edge.name, attribute))
        return edge

    def op(
        self,
        kind: str,
        arguments: Sequence[Edge | list[Edge] | Literal],
        results: Sequence[tuple[Sequence[int], torch.dtype]],
        /,
        **attributes: Literal,
    ) -> Edge:
        """Add a node with these results, and return the first of them.

        Args:
            kind: The primitive.
            arguments: All of its arguments in order; a list of edges is a tuple of tensors.
            results: The shape and dtype of each.
            attributes: All of its attributes.
        """
        primitive = PRIMITIVES[kind]
        assert len(arguments) == len(primitive.arguments), kind
        assert len(results) == len(primitive.results), kind
        assert set(attributes) == set(primitive.attributes), f"{kind}: {sorted(attributes)}"
        if primitive.is_older:
            attributes |= {"input_names": list(primitive.arguments), "output_names": list(primitive.results)}  # type: ignore[dict-item]
        fed = [self._fed(argument) for argument in arguments]
        made = [Edge("", tuple(shape), dtype) for shape, dtype in results]
        name = self._node(kind, fed, made, 1 if primitive.is_older else 2, attributes)
        if len(made) > 1:
            name = self._node("TupleGetItem", [name, self._literal(0)], made[:1], 1, {})
        return Edge(name, made[0].shape, made[0].dtype)

    def one(
        self,
        kind: str,
        arguments: Sequence[Edge | list[Edge] | Literal],
        shape: Sequence[int],
        dtype: torch.dtype,
        /,
        **attributes: Literal,
    ) -> Edge:
        """Add a node with one result."""
        return self.op(kind, arguments, [(shape, dtype)], **attributes)

    def like(self, kind: str, x: Edge, /, *others: Literal, **attributes: Literal) -> Edge:
        """Add a node whose result has the shape and dtype of its first argument."""
        return self.one(kind, [x, *others], x.shape, x.dtype, **attributes)

    def reshape(self, x: Edge, shape: Sequence[int]) -> Edge:
        """`x` with its elements in order, in another shape."""
        if tuple(shape) == x.shape:
            return x
        return self.one("Reshape", [x, tuple(shape)], shape, x.dtype)

    def permute(self, x: Edge, order: Sequence[int]) -> Edge:
        """`x` with its dimensions in another order."""
        if list(order) == list(range(x.rank)):
            return x
        return self.one("Transpose", [x, tuple(order)], [x.shape[dim] for dim in order], x.dtype)

    def expand(self, x: Edge, shape: Sequence[int]) -> Edge:
        """`x` repeated to a larger shape, as broadcasting does."""
        if tuple(shape) == x.shape:
            return x
        return self.one("BroadcastTo", [x, tuple(shape)], shape, x.dtype)

    def cast(self, x: Edge, dtype: torch.dtype) -> Edge:
        """`x` in another element type."""
        if x.dtype == dtype:
            return x
        if dtype not in TO_TYPE_ID:
            raise Unsupported(f"there is no element type for {dtype}")
        return self.one("Cast", [x, TO_TYPE_ID[dtype]], x.shape, dtype)

    def binary(
        self, kind: str, first: Edge, second: Edge, dtype: torch.dtype, result: torch.dtype | None = None
    ) -> Edge:
        """Two tensors, brought to one element type and broadcast against each other."""
        shape = broadcast(first.shape, second.shape)
        return self.one(kind, [self.cast(first, dtype), self.cast(second, dtype)], shape, result or dtype)

    def pieces(self, name: str, results: Sequence[Edge]) -> Pieces:
        """The file, with these results."""
        graph = message("GraphProto")(name=name)
        for edge in self._inputs:
            graph.input.add(name=edge.name, tensor=[_stated(edge)])
        output = self._fed(list(results)) if len(results) > 1 else results[0].name
        graph.node.extend(self._nodes)
        graph.output.add(name=output)
        if len(results) == 1:
            graph.output[0].tensor.append(_stated(results[0]))
        else:
            graph.output[0].denotation = "Tuple"
            graph.output[0].attr_info.CopyFrom(_shapes("", results))
        used = {name for node in self._nodes for name in node.input} | {edge.name for edge in results}
        model = message("ModelProto")(
            ir_version="1.1",
            producer_name="MindSpore",
            model_version=MINDSPORE,
            little_endian=True,
            primitives=self._primitives.values(),
            mind_ir_version=3,
        )
        weights = {name: held for name, held in self._weights.items() if name in used}
        return Pieces(model, graph, [_parameter(name, *held) for name, held in weights.items()])

    def _edge(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Edge:
        if dtype not in TO_PROTO:
            raise Unsupported(f"there is no element type for {dtype}")
        return Edge(self._distinct(name), shape, dtype)

    def _distinct(self, name: str) -> str:
        name = distinct(name.replace(":", "_"), self._names)
        self._names.add(name)
        return name

    def _fed(self, argument: Edge | list[Edge] | Literal) -> str:
        if isinstance(argument, Edge):
            return argument.name
        if isinstance(argument, list):
            return self._node("MakeTuple", [edge.name for edge in argument], argument, 1, {}, is_tuple=True)
        return self._literal(argument)

    def _literal(self, value: Literal) -> str:
        key = repr(value)
        if key not in self._literals:
            self._literals[key] = self._distinct("literal")
            attribute = message("AttributeProto")(name="value")
            _set(attribute, value)
            self._nodes.append(_constant(self._literals[key], attribute))
        return self._literals[key]

    def _node(
        self,
        kind: str,
        fed: Sequence[str],
        results: Sequence[Edge],
        prim_type: int,
        attributes: dict[str, Literal],
        *,
        is_tuple: bool = False,
    ) -> str:
        path = [*self.module.split("."), kind] if self.module else [kind]
        name = self._distinct("/".join(path))
        node = message("NodeProto")(name=name, output=[name], input=fed, domain="/".join(["Default", *path]))
        node.op_type = f"REF::{self._primitive(kind, prim_type, attributes)}"
        if is_tuple or len(results) > 1:
            node.attribute.append(_shapes("shape", results))
        else:
            node.attribute.add(name="shape", type=KINDS["TENSORS"], tensors=[_stated(results[0])])
        self._nodes.append(node)
        return name

    def _primitive(self, kind: str, prim_type: int, attributes: dict[str, Literal]) -> str:
        """The name of the model's primitive with these attributes; equal ones are written once."""
        key = f"{kind} {sorted(attributes.items())}"
        if key not in self._primitives:
            name = f"{kind}:{len(self._primitives) + 1}"
            proto = message("PrimitiveProto")(name=name, op_type=kind, instance_name="", prim_type=prim_type)
            for attribute, value in attributes.items():
                _set(proto.attribute.add(name=attribute), value)
            self._primitives[key] = proto
        name = self._primitives[key].name
        return str(name)


@dataclass(frozen=True)
class Pieces:
    """A file as messages without weights, and the weights, each as pieces of bytes."""

    model: Any
    graph: Any
    parameters: list[list[Content]]

    def contents(self) -> list[Content]:
        """The whole file, in order."""
        head = self.graph.SerializeToString(deterministic=True)
        framed = [[bytes_head(3, sum(map(len, pieces))), *pieces] for pieces in self.parameters]
        nbytes = len(head) + sum(len(piece) for pieces in framed for piece in pieces)
        begin = self.model.SerializeToString(deterministic=True) + bytes_head(7, nbytes) + head
        return [begin, *(piece for pieces in framed for piece in pieces)]


def _parameter(name: str, entry: str, tensor: Tensor) -> list[Content]:
    proto = message("TensorProto")(name=name, ref_key=entry, dims=tensor.shape, data_type=TO_PROTO[tensor.dtype])
    content = content_of(tensor)
    return [proto.SerializeToString(deterministic=True) + bytes_head(9, len(content)), content]


def _constant(name: str, attribute: Any) -> Any:
    return message("NodeProto")(name=name, output=[name], op_type="Constant", attribute=[attribute])


def _stated(edge: Edge) -> Any:
    return message("TensorProto")(dims=edge.shape, data_type=TO_PROTO[edge.dtype])


def _shapes(name: str, results: Sequence[Edge]) -> Any:
    attribute = message("AttributeProto")(name=name, type=KINDS["TUPLE"])
    attribute.seq_info.is_dyn_len = False
    for edge in results:
        attribute.values.add(type=KINDS["TENSORS"], tensors=[_stated(edge)])
    return attribute


def _set(attribute: Any, value: Any, *, is_element: bool = False) -> None:
    """Write a literal; elements of tuples stand in the lists of the message, others in its single fields."""
    if isinstance(value, tuple | list):
        attribute.type = KINDS["TUPLE" if isinstance(value, tuple) else "LIST"]
        for element in value:
            _set(attribute.values.add(), element, is_element=True)
        return
    if isinstance(value, str):
        kind, single, several, value = "STRING", "s", "strings", value.encode()
    elif isinstance(value, float):
        kind, single, several = "FLOAT", "f", "floats"
    else:
        kind, single, several, value = "BOOL" if isinstance(value, bool) else "INT64", "i", "ints", int(value)
    attribute.type = KINDS[kind]
    if is_element:
        getattr(attribute, several).append(value)
    else:
        setattr(attribute, single, value)
