"""GE's operators, one by one -> the bytes of a GEIR file, by the rules of its loaders. No torch operator is known here.

The rules: every op and descriptor has `has_out_attr`, or GE up to 2021 drops its descriptors; every list says its kind,
or later GE drops the list; slots are fed from the first on without a gap; names of slots are written for GE of 2020 and
for later ones; results are named by the NetOutput op and by the graph, because each is all that one of the two reads;
weights are Const ops, each once. Large contents are not copied: the file is a list of pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from milepost.format.wire import bytes_field, bytes_head
from milepost.graphs.frontend import distinct
from milepost.graphs.geir.dtypes import TO_ATTRIBUTE, TO_PROTO
from milepost.graphs.geir.prototypes import PROTOTYPES, Prototype
from milepost.graphs.geir.schema import message
from milepost.graphs.lowering import Unsupported, broadcast
from milepost.state.tensors import content_of

Content = bytes | memoryview

NCHW, ND = "NCHW", "ND"
OUTPUT = "Node_Output"
"""GE's own name for the op that gathers the results."""

_IMAGES = {"Conv2D", "BatchNorm", "MaxPoolV3", "AvgPoolV2", "Pooling", "AdaptiveAvgPool2d"}
"""Operators whose four-dimensional slots are (batch, channels, height, width)."""
_MOVING = {"Reshape", "TransposeD", "BatchMatMul", "BatchMatMulV2", "Unsqueeze", "Squeeze", "Pack", "GatherV2"}
"""Operators after which dimensions no longer mean what they meant."""
_SINGLE = {"i": "i", "f": "f", "b": "b", "dt": "dt"}
_LISTS = {"Li": ("i", 2), "Lf": ("f", 3), "s": ("s", 1)}


@dataclass(eq=False)
class Edge:
    """One output of an op, to be fed to others."""

    producer: str
    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str = ND

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)


@dataclass
class _Op:
    name: str
    type: str
    inputs: list[Edge]
    outputs: tuple[Edge, ...]
    attributes: dict[str, Any]
    content: Tensor | None = None


@dataclass
class Builder:
    """A graph in the making.

    Args:
        current: Whether operators that came after mid 2020 may be used.
    """

    current: bool
    module: str = ""
    _ops: list[_Op] = field(default_factory=list)
    _names: set[str] = field(default_factory=lambda: {OUTPUT})
    _small: dict[tuple[Any, ...], Edge] = field(default_factory=dict)
    _inputs: int = 0

    def data(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Edge:
        """The next argument of the model."""
        edge = Edge(self._distinct(name), 0, shape, dtype)
        self._ops.append(_Op(edge.producer, "Data", [edge], (edge,), {"index": self._inputs}))
        self._inputs += 1
        return edge

    def weight(self, name: str, tensor: Tensor) -> Edge:
        """A Const op with the content of `tensor`, which is not copied."""
        if tensor.dtype not in TO_PROTO:
            raise Unsupported(f"there is no element type for {tensor.dtype}")
        edge = Edge(self._distinct(name), 0, tuple(tensor.shape), tensor.dtype)
        self._ops.append(_Op(edge.producer, "Const", [], (edge,), {}, tensor))
        return edge

    def held(self, name: str, tensor: Tensor) -> Edge:
        """As a weight: GE makes no difference."""
        return self.weight(name, tensor)

    def stand_in(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Edge:
        """An edge of no op."""
        return Edge(name, 0, shape, dtype)

    def constant(self, value: float | Sequence[int], dtype: torch.dtype = torch.int64) -> Edge:
        """A small Const; equal ones are written once."""
        key = (tuple(value) if isinstance(value, Sequence) else repr(value), dtype)
        if key not in self._small:
            self._small[key] = self.weight("const", torch.tensor(value, dtype=dtype))
        return self._small[key]

    def filled(self, value: float, size: int, dtype: torch.dtype) -> Edge:
        """A vector of equal elements; equal ones are written once."""
        key = ("filled", value, size, dtype)
        if key not in self._small:
            self._small[key] = self.weight("const", torch.full((size,), value, dtype=dtype))
        return self._small[key]

    def op(
        self,
        kind: str,
        inputs: Sequence[Edge | None],
        outputs: Sequence[tuple[Sequence[int], torch.dtype]],
        /,
        **attributes: Any,
    ) -> tuple[Edge, ...]:
        """Add an op; the inputs are in the order of its prototype, absent optional ones last and None."""
        prototype = PROTOTYPES[kind]
        fed = [edge for edge in inputs if edge is not None]
        assert fed == list(inputs[: len(fed)]), f"{kind}: a slot after an empty one is fed"
        assert self.current or prototype.era == "2020", f"{kind} is not in the set of 2020"
        assert prototype.required <= attributes.keys() <= prototype.attributes.keys(), f"{kind}: {sorted(attributes)}"
        name = self._distinct("/".join([*self.module.split("."), kind]) if self.module else kind)
        layout = self._layout(kind, fed)
        made = tuple(
            Edge(name, index, tuple(shape), dtype, layout if len(shape) == 4 else ND)
            for index, (shape, dtype) in enumerate(outputs)
        )
        self._ops.append(_Op(name, kind, fed, made, attributes))
        return made

    def one(
        self, kind: str, inputs: Sequence[Edge | None], shape: Sequence[int], dtype: torch.dtype, /, **attributes: Any
    ) -> Edge:
        """Add an op with one output."""
        return self.op(kind, inputs, [(shape, dtype)], **attributes)[0]

    def like(self, kind: str, x: Edge, /, *others: Edge, **attributes: Any) -> Edge:
        """Add an op whose output has the shape and dtype of its first input."""
        return self.one(kind, [x, *others], x.shape, x.dtype, **attributes)

    def reshape(self, x: Edge, shape: Sequence[int]) -> Edge:
        """`x` with its elements in order, in another shape."""
        if tuple(shape) == x.shape:
            return x
        return self.one("Reshape", [x, self.constant(list(shape))], shape, x.dtype)

    def permute(self, x: Edge, order: Sequence[int]) -> Edge:
        """`x` with its dimensions in another order."""
        if list(order) == list(range(x.rank)):
            return x
        return self.one("TransposeD", [x], [x.shape[dim] for dim in order], x.dtype, perm=list(order))

    def expand(self, x: Edge, shape: Sequence[int]) -> Edge:
        """`x` repeated to a larger shape, as broadcasting does."""
        if tuple(shape) == x.shape:
            return x
        return self.one("BroadcastToD", [x], shape, x.dtype, shape=list(shape))

    def cast(self, x: Edge, dtype: torch.dtype) -> Edge:
        """`x` in another element type."""
        if x.dtype == dtype:
            return x
        if dtype not in TO_ATTRIBUTE:
            raise Unsupported(f"there is no element type for {dtype}")
        return self.one("Cast", [x], x.shape, dtype, dst_type=TO_ATTRIBUTE[dtype])

    def binary(
        self, kind: str, first: Edge, second: Edge, dtype: torch.dtype, result: torch.dtype | None = None
    ) -> Edge:
        """Two tensors, brought to one element type and broadcast against each other."""
        shape = broadcast(first.shape, second.shape)
        return self.one(kind, [self.cast(first, dtype), self.cast(second, dtype)], shape, result or dtype)

    def pieces(self, name: str, results: Sequence[Edge]) -> Pieces:
        """The file, with these results."""
        ops = [*self._ops, _Op(OUTPUT, "NetOutput", list(results), (), {})]
        graph = message("GraphDef")(name=name, output=[f"{edge.producer}:{edge.index}" for edge in results])
        used = {edge.producer for op in ops for edge in op.inputs if op.type != "Data"}
        kept = [op for op in ops if op.type in ("Data", "NetOutput") or op.name in used]
        return Pieces(message("ModelDef")(version=1), graph, [_encoded(op, number) for number, op in enumerate(kept)])

    def _distinct(self, name: str) -> str:
        name = distinct(name.replace(":", "_"), self._names)  # the last colon of an edge is where its index begins
        self._names.add(name)
        return name

    def _layout(self, kind: str, inputs: list[Edge]) -> str:
        images = [edge for edge in inputs if edge.rank == 4]
        if kind in _IMAGES:
            for edge in images:
                edge.layout = NCHW
            return NCHW
        return NCHW if kind not in _MOVING and any(edge.layout == NCHW for edge in images) else ND


@dataclass(frozen=True)
class Pieces:
    """A file as messages without ops, and the ops, each as pieces of bytes."""

    model: Any
    graph: Any
    ops: list[list[Content]]

    def contents(self) -> list[Content]:
        """The whole file, in order."""
        head = self.graph.SerializeToString(deterministic=True)
        framed = [[bytes_head(6, _nbytes(op)), *op] for op in self.ops]
        nbytes = len(head) + sum(map(_nbytes, framed))
        begin = self.model.SerializeToString(deterministic=True) + bytes_head(7, nbytes) + head
        return [begin, *(piece for op in framed for piece in op)]


def _nbytes(pieces: Sequence[Content]) -> int:
    return sum(map(len, pieces))


def _encoded(op: _Op, number: int) -> list[Content]:
    proto = message("OpDef")(name=op.name, type=op.type, has_out_attr=True, id=number)
    if op.type != "Data":
        proto.input.extend(f"{edge.producer}:{edge.index}" for edge in op.inputs)
    for edge in op.inputs:
        _describe(proto.input_desc.add(), edge)
    for edge in op.outputs:
        _describe(proto.output_desc.add(), edge)
    prototype = PROTOTYPES[op.type]
    for name, value in op.attributes.items():
        set_attribute(proto.attr[name], prototype.attributes[name], value)
    if op.type not in ("Data", "Const"):
        _name_slots(proto, prototype, len(op.inputs), len(op.outputs))
    content = proto.SerializeToString(deterministic=True)
    return [content] if op.content is None else [content, *_value(op.outputs[0], content_of(op.content))]


def _value(edge: Edge, content: memoryview) -> list[Content]:
    """The attribute `value` of a Const, as an entry of the op's map, around the tensor's own memory."""
    desc = message("TensorDescriptor")()
    _describe(desc, edge)
    tensor = bytes_field(1, desc.SerializeToString(deterministic=True)) + bytes_head(2, len(content))
    for number, before in ((12, b""), (2, bytes_field(1, b"value")), (10, b"")):  # AttrDef.t, the entry, OpDef.attr
        tensor = before + bytes_head(number, len(tensor) + len(content)) + tensor
    return [tensor, content]


def _describe(desc: Any, edge: Edge) -> None:
    desc.dtype = TO_PROTO[edge.dtype]
    desc.layout = edge.layout
    desc.has_out_attr = True
    desc.real_dim_cnt = edge.rank
    desc.shape.SetInParent()  # a scalar has an empty shape, not none
    desc.shape.dim.extend(edge.shape)
    if edge.layout == NCHW:
        set_attribute(desc.attr["origin_format"], "s", NCHW)
        set_attribute(desc.attr["origin_shape"], "Li", edge.shape)


def set_attribute(attribute: Any, kind: str, value: Any) -> None:
    """Write one attribute of a kind of `prototypes`, or of kind ``Ls``, a list of strings."""
    if kind in _SINGLE:
        setattr(attribute, _SINGLE[kind], value)
    elif kind == "s":
        attribute.s = value.encode()
    elif kind == "LLi":
        attribute.list_list_int.SetInParent()
        for row in value:
            attribute.list_list_int.list_list_i.add(list_i=row)
    elif kind == "Ls":
        attribute.list.val_type = 1
        attribute.list.s.extend(text.encode() for text in value)
    else:
        name, number = _LISTS[kind]
        attribute.list.val_type = number
        getattr(attribute.list, name).extend(value)


def _name_slots(proto: Any, prototype: Prototype, inputs: int, outputs: int) -> None:
    fed = slot_names(prototype.inputs, inputs, first="input" if prototype.name == "NetOutput" else None)
    made = slot_names(prototype.outputs, outputs)
    for key, names in (("_input_name", fed), ("_input_name_idx", fed), ("_output_name", made)):
        if names:
            set_attribute(proto.attr[f"{key}_key"], "Ls", names)
            set_attribute(proto.attr[f"{key}_value"], "Li", range(len(names)))
    if optional := [slot.name for slot in prototype.inputs if slot.is_optional]:
        set_attribute(proto.attr["_opt_input"], "Ls", optional)


def slot_names(slots: Sequence[Any], count: int, first: str | None = None) -> list[str]:
    """The names of the first `count` slots, those of a dynamic one numbered."""
    fixed = sum(not slot.is_dynamic for slot in slots)
    names: list[str] = []
    for slot in slots:
        number = max(count - fixed, 0)
        names += [f"{first or slot.name}{index}" for index in range(number)] if slot.is_dynamic else [slot.name]
    return names[:count]
