"""The messages of a GEIR file, declared here in a pool of their own. What a good file holds is not known here.

A process that also imports Huawei's own module has the same messages in protobuf's default pool; a second declaration
there would be an error, so these stand in a private one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from milepost.errors import MissingExtraError

PACKAGE = "ge.proto"

_MESSAGES = {
    "ModelDef": "name 1 string; version 2 uint32; custom_version 3 string; graph 7 *GraphDef; attr 11 map",
    "GraphDef": "name 1 string; input 4 *string; output 5 *string; op 6 *OpDef; attr 11 map",
    "OpDef": "name 1 string; type 2 string; input 5 *string; attr 10 map; has_out_attr 20 bool; id 21 int64;"
    "stream_id 22 int64; input_name 23 *string; src_name 24 *string; src_index 25 *int64; dst_name 26 *string;"
    "dst_index 27 *int64; input_i 28 *int64; output_i 29 *int64; workspace 30 *int64; workspace_bytes 31 *int64;"
    "is_input_const 32 *bool; input_desc 33 *TensorDescriptor; output_desc 34 *TensorDescriptor;"
    "subgraph_name 35 *string",
    "TensorDescriptor": "name 1 string; dtype 2 DataType; shape 3 ShapeDef; layout 4 string; attr 5 map;"
    "has_out_attr 9 bool; size 10 int64; weight_size 11 int64; reuse_input 12 bool; output_tensor 13 bool;"
    "device_type 14 string; input_tensor 15 bool; real_dim_cnt 16 int64; reuse_input_index 17 int64;"
    "data_offset 18 int64; cmps_size 19 int64; cmps_tab 20 string; cmps_tab_offset 21 int64",
    "TensorDef": "desc 1 TensorDescriptor; data 2 bytes",
    "ShapeDef": "dim 1 *int64",
    "NamedAttrs": "name 1 string; attr 2 map",
    "AttrDef": "list 1 |AttrDef.ListValue; s 2 |bytes; i 3 |int64; f 4 |float; b 5 |bool; bt 7 |bytes;"
    "func 10 |NamedAttrs; td 11 |TensorDescriptor; t 12 |TensorDef; g 13 |GraphDef;"
    "list_list_int 14 |AttrDef.ListListInt; dt 15 |int64",
    "AttrDef.ListValue": "s 2 *bytes; i 3 *int64; f 4 *float; b 5 *bool; bt 7 *bytes; td 8 *TensorDescriptor;"
    "t 9 *TensorDef; g 10 *GraphDef; na 11 *NamedAttrs; dt 12 *int64; val_type 20 AttrDef.ListValue.ListValueType",
    "AttrDef.ListListInt": "list_list_i 1 *AttrDef.ListListInt.ListInt",
    "AttrDef.ListListInt.ListInt": "list_i 1 *int64",
}
"""Message -> its fields: name, number, type; `*` is repeated, `|` one of several, `map` goes from string to AttrDef."""

_DTYPES = (
    "UNDEFINED FLOAT FLOAT16 INT8 UINT8 INT16 UINT16 INT32 INT64 UINT32 UINT64 BOOL DOUBLE STRING DUAL_SUB_INT8 "
    "DUAL_SUB_UINT8 COMPLEX64 COMPLEX128 QINT8 QINT16 QINT32 QUINT8 QUINT16 RESOURCE STRING_REF DUAL VARIANT BF16"
)
_LIST_KINDS = "NONE STRING INT FLOAT BOOL BYTES TENSOR_DESC TENSOR GRAPH NAMED_ATTRS DATA_TYPE"


@cache
def message(name: str) -> Any:
    """The class of one message, such as ``ModelDef``.

    Raises:
        MissingExtraError: protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pool, message_factory
    except ImportError as error:
        raise MissingExtraError.of("a GEIR file", extra="geir", missing="protobuf") from error
    return message_factory.GetMessageClass(_pool(descriptor_pool).FindMessageTypeByName(f"{PACKAGE}.{name}"))


@cache
def _pool(descriptor_pool: Any) -> Any:
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto(name="milepost/geir.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        *outer, last = name.split(".")
        holder: Any = file.message_type
        for part in outer:
            holder = next(one for one in holder if one.name == part).nested_type
        _declare(holder.add(name=last), name, fields)
    _enumerate(file.enum_type.add(name="DataType"), "DT_", _DTYPES)
    attribute = next(one for one in file.message_type if one.name == "AttrDef")
    list_value = next(one for one in attribute.nested_type if one.name == "ListValue")
    _enumerate(list_value.enum_type.add(name="ListValueType"), "VT_LIST_", _LIST_KINDS)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _declare(proto: Any, name: str, fields: str) -> None:
    kinds = proto.field.add().__class__
    del proto.field[:]
    for line in fields.split(";"):
        field, number, kind = line.split()
        if "|" in kind and not proto.oneof_decl:
            proto.oneof_decl.add(name="value")
        added = proto.field.add(name=field, number=int(number), label=kinds.LABEL_OPTIONAL)
        if "|" in kind:
            added.oneof_index = 0
        if kind.startswith("*") or kind == "map":
            added.label = kinds.LABEL_REPEATED
        kind = kind.strip("*|")
        if kind == "map":
            entry = "".join(part.capitalize() for part in field.split("_")) + "Entry"
            _declare(proto.nested_type.add(name=entry), f"{name}.{entry}", "key 1 string; value 2 AttrDef")
            proto.nested_type[-1].options.map_entry = True
            kind = f"{name}.{entry}"
        if kind[0].islower():
            added.type = getattr(kinds, f"TYPE_{kind.upper()}")
        else:
            is_enum = kind == "DataType" or kind.endswith("Type")
            added.type = kinds.TYPE_ENUM if is_enum else kinds.TYPE_MESSAGE
            added.type_name = f".{PACKAGE}.{kind}"


def _enumerate(proto: Any, prefix: str, names: str) -> None:
    for number, name in enumerate(names.split()):
        proto.value.add(name=prefix + name, number=number)
