"""The messages of a GEIR file, declared here. What a good file holds is not known here."""

from __future__ import annotations

from milepost.graphs.messages import Schema

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

_DTYPES = (
    "UNDEFINED FLOAT FLOAT16 INT8 UINT8 INT16 UINT16 INT32 INT64 UINT32 UINT64 BOOL DOUBLE STRING DUAL_SUB_INT8 "
    "DUAL_SUB_UINT8 COMPLEX64 COMPLEX128 QINT8 QINT16 QINT32 QUINT8 QUINT16 RESOURCE STRING_REF DUAL VARIANT BF16"
)
_LIST_KINDS = "NONE STRING INT FLOAT BOOL BYTES TENSOR_DESC TENSOR GRAPH NAMED_ATTRS DATA_TYPE"

_SCHEMA = Schema(
    PACKAGE,
    "proto3",
    "geir",
    _MESSAGES,
    {
        "DataType": " ".join(f"DT_{name}" for name in _DTYPES.split()),
        "AttrDef.ListValue.ListValueType": " ".join(f"VT_LIST_{name}" for name in _LIST_KINDS.split()),
    },
    mapped="AttrDef",
)

message = _SCHEMA.message
"""The class of one message, such as ``ModelDef``; raises `MissingExtraError` where protobuf is not installed."""
