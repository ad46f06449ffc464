"""The rules that GE's loaders hold a file to, checked on the bytes. How files are made is not known here.

Each rule was seen to matter: a file that breaks it is refused, or read as something else, by one of GE's loaders. They
are written against the message itself, not against Milepost's own reader, which is more lenient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from milepost.graphs.geir.builder import slot_names
from milepost.graphs.geir.dtypes import FROM_PROTO
from milepost.graphs.geir.prototypes import PROTOTYPES
from milepost.graphs.geir.schema import message

_LAYOUTS = {"NCHW", "NHWC", "ND", "HWCN"}
_KINDS = {
    "i": "i",
    "f": "f",
    "b": "b",
    "s": "s",
    "t": "t",
    "dt": "dt",
    "Li": "list",
    "Lf": "list",
    "LLi": "list_list_int",
}
_LIST_NUMBERS = {"Li": 2, "Lf": 3}
_FORBIDDEN = ("_ir_attr_names", "_ir_inputs", "_ir_outputs")


def problems(content: bytes, operators: str = "current") -> list[str]:
    """Return what GE would not accept in the bytes of a file, each as a line; none for a good one.

    Args:
        content: The whole file.
        operators: The set that the file may use, ``2020`` or ``current``.
    """
    model = message("ModelDef").FromString(content)
    if len(model.graph) != 1:
        return [f"the model has {len(model.graph)} graphs instead of one"]
    return list(_of_graph(model.graph[0], operators))


def _of_graph(graph: Any, operators: str) -> Iterator[str]:
    ops = {op.name: op for op in graph.op}
    for name, count in Counter(op.name for op in graph.op).items():
        if count > 1:
            yield f"{name}: {count} ops of one name"
    numbers = [op.id for op in graph.op]
    if numbers != sorted(numbers):
        yield "ids do not ascend"
    indices = [op.attr["index"].i for op in graph.op if op.type == "Data"]
    if sorted(indices) != list(range(len(indices))):
        yield f"the Data ops have the indices {indices}"
    seen: set[str] = set()
    for op in graph.op:
        for line in (*_of_op(op, operators), *_of_edges(op, ops, seen)):
            yield f"{op.name} ({op.type}): {line}"
        seen.add(op.name)
    yield from _of_results(graph, ops)


def _of_results(graph: Any, ops: dict[str, Any]) -> Iterator[str]:
    gathered = [list(op.input) for op in graph.op if op.type == "NetOutput"]
    if len(gathered) != 1:
        yield f"{len(gathered)} NetOutput ops instead of one"
    elif gathered[0] != list(graph.output):
        yield f"the results are {list(graph.output)} for the graph, {gathered[0]} for NetOutput"
    for text in graph.output:
        if text.rpartition(":")[0] not in ops:
            yield f"the result {text} has no producer"


def _of_edges(op: Any, ops: dict[str, Any], seen: set[str]) -> Iterator[str]:
    if op.type == "Data":
        if op.input or len(op.input_desc) != 1 or len(op.output_desc) != 1:
            yield "an argument has no edge, one input descriptor and one output descriptor"
        elif op.input_desc[0] != op.output_desc[0]:
            yield "the two descriptors of an argument differ"
        return
    if len(op.input) != len(op.input_desc):
        yield f"{len(op.input)} edges for {len(op.input_desc)} descriptors"
    for text, desc in zip(op.input, op.input_desc, strict=False):
        producer, _, index = text.rpartition(":")
        if producer not in ops or int(index) >= len(ops[producer].output_desc):
            yield f"the edge {text} comes from nowhere"
        elif producer not in seen:
            yield f"the edge {text} comes from an op further down"
        elif desc != ops[producer].output_desc[int(index)]:
            yield f"the descriptor of the edge {text} differs from its producer's"


def _of_op(op: Any, operators: str) -> Iterator[str]:
    if not op.has_out_attr:
        yield "has_out_attr is not set: its descriptors would be dropped"
    for desc in (*op.input_desc, *op.output_desc):
        yield from _of_desc(desc)
    prototype = PROTOTYPES.get(op.type)
    if prototype is None:
        yield "no such operator"
        return
    if operators == "2020" and prototype.era != "2020":
        yield f"not in the operators of 2020 (added by {prototype.era})"
    for name in op.attr:
        yield from _of_attribute(name, op.attr[name], prototype)
    yield from (f"the attribute {name} is missing" for name in sorted(prototype.required - set(op.attr)))
    if op.type == "Const":
        yield from _of_const(op)
    elif op.type not in ("Data", "NetOutput"):
        yield from _of_slots(op, prototype)


def _of_slots(op: Any, prototype: Any) -> Iterator[str]:
    fed, made = slot_names(prototype.inputs, len(op.input)), slot_names(prototype.outputs, len(op.output_desc))
    needed = sum(not slot.is_optional and not slot.is_dynamic for slot in prototype.inputs)
    if len(fed) != len(op.input) or len(op.input) < needed:
        yield f"{len(op.input)} inputs"
    if len(made) != len(op.output_desc) or not made:
        yield f"{len(op.output_desc)} outputs"
    for key, names in (("_input_name", fed), ("_input_name_idx", fed), ("_output_name", made)):
        written = [name.decode() for name in op.attr[f"{key}_key"].list.s]
        if written != names or list(op.attr[f"{key}_value"].list.i) != list(range(len(names))):
            yield f"{key} says {written} instead of {names}"


def _of_attribute(name: str, attribute: Any, prototype: Any) -> Iterator[str]:
    kind = attribute.WhichOneof("value")
    if kind is None:
        yield f"the attribute {name} has no value: it would be dropped"
    elif kind == "list" and not attribute.list.val_type:
        yield f"the list {name} does not say of what: it would be dropped"
    if name.startswith(_FORBIDDEN):
        yield f"the attribute {name} must not be written"
    elif not name.startswith("_"):
        wanted = prototype.attributes.get(name)
        if wanted is None:
            yield f"the operator has no attribute {name}"
        elif kind != _KINDS[wanted] or attribute.list.val_type != _LIST_NUMBERS.get(wanted, 0):
            yield f"the attribute {name} is not of kind {wanted}"


def _of_desc(desc: Any) -> Iterator[str]:
    if desc.dtype not in FROM_PROTO or not desc.HasField("shape") or min(desc.shape.dim, default=0) < 0:
        yield f"a descriptor of element type {desc.dtype} and shape {list(desc.shape.dim)}"
    if desc.layout not in _LAYOUTS or (desc.layout == "NCHW" and len(desc.shape.dim) != 4):
        yield f"the layout {desc.layout!r} of shape {list(desc.shape.dim)}"
    if not desc.has_out_attr or desc.real_dim_cnt != len(desc.shape.dim):
        yield "a descriptor without has_out_attr, or with another real_dim_cnt than its rank"
    if ("origin_format" in desc.attr) != ("origin_shape" in desc.attr):
        yield "origin_format and origin_shape stand together or not at all"


def _of_const(op: Any) -> Iterator[str]:
    tensor = op.attr["value"].t
    desc = op.output_desc[0] if op.output_desc else None
    if (
        op.input
        or desc is None
        or (tensor.desc.dtype, tensor.desc.shape, tensor.desc.layout)
        != (
            desc.dtype,
            desc.shape,
            desc.layout,
        )
    ):
        yield "a constant has no input, and one descriptor, which its tensor repeats"
    size = FROM_PROTO[tensor.desc.dtype].itemsize if tensor.desc.dtype in FROM_PROTO else 0
    for length in tensor.desc.shape.dim:
        size *= length
    if len(tensor.data) != size:
        yield f"{len(tensor.data)} bytes instead of {size}"
