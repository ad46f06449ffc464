"""The messages of a MindIR file, declared here. What a good file holds is not known here.

Source: mindspore/core/proto/mind_ir.proto of MindSpore 2.10; left out are parallel layouts, preprocessing and maps.
"""

from __future__ import annotations

from milepost.graphs.messages import Schema

_MESSAGES = {
    "AttributeProto": "name 1 string; f 2 float; i 3 int64; d 4 double; s 5 bytes; t 6 TensorProto; g 7 GraphProto;"
    "floats 8 *float; doubles 9 *double; ints 10 *int64; strings 11 *bytes; tensors 12 *TensorProto;"
    "graphs 13 *GraphProto; doc_string 14 string; ref_attr_name 15 string; type 16 int32;"
    "values 17 *AttributeProto; seq_info 18 AttributeProto.SeqInfoProto",
    "AttributeProto.SeqInfoProto": "is_dyn_len 1 bool; tuple_elem_item 2 AttributeProto",
    "ValueInfoProto": "name 1 string; tensor 2 *TensorProto; doc_string 3 string; denotation 4 string;"
    "attr_info 5 AttributeProto",
    "NodeProto": "input 1 *string; output 2 *string; name 3 string; op_type 4 string; attribute 5 *AttributeProto;"
    "doc_string 6 string; domain 7 string; node_attr 8 *AttributeProto; primal_attr 9 *AttributeProto",
    "ModelProto": "ir_version 1 string; producer_name 2 string; producer_version 3 string; domain 4 string;"
    "model_version 5 string; doc_string 6 string; graph 7 GraphProto; functions 8 *GraphProto; little_endian 10 bool;"
    "primitives 12 *PrimitiveProto; mind_ir_version 13 int64; user_info 14 *ModelProto.UserInfoEntry",
    "ModelProto.UserInfoEntry": "key 1 string; value 2 string",
    "GraphProto": "node 1 *NodeProto; name 2 string; parameter 3 *TensorProto; doc_string 4 string;"
    "input 5 *ValueInfoProto; output 6 *ValueInfoProto; bprop_hash 7 string; attribute 8 *AttributeProto",
    "TensorProto": "dims 1 *int64; data_type 2 int32; float_data 3 *float; int32_data 4 *int32; string_data 5 *bytes;"
    "int64_data 6 *int64; name 7 string; doc_string 8 string; raw_data 9 bytes; double_data 10 *double;"
    "uint64_data 11 *uint64; external_data 12 TensorProto.ExternalDataProto; ref_key 13 string; min_dims 14 *int64;"
    "max_dims 15 *int64; compression_type 16 int32",
    "TensorProto.ExternalDataProto": "location 1 string; offset 2 int64; length 3 int64",
    "PrimitiveProto": "name 1 string; op_type 2 string; attribute 3 *AttributeProto; instance_name 4 string;"
    "prim_type 5 int32",
}
"""Message -> its fields. Enumerations are integers here, which on the wire they are too."""

KINDS = {
    "FLOAT": 1,
    "INT64": 7,
    "STRING": 8,
    "BOOL": 9,
    "TENSORS": 19,
    "TUPLE": 20,
    "LIST": 21,
}
"""What an attribute holds -> its `type`."""

message = Schema("mind_ir", "proto2", "mindir", _MESSAGES).message
"""The class of one message, such as ``ModelProto``; raises `MissingExtraError` where protobuf is not installed."""
