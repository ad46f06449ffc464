"""Huawei's own schema reads GEIR files. Arguments: the generated module of the torch-npu wheel, then the files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path


def main(module: str, *paths: str) -> None:
    spec = importlib.util.spec_from_file_location("ge_ir_pb2", module)
    schema = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(schema)
    print(json.dumps([read(schema.ModelDef.FromString(Path(path).read_bytes())) for path in paths]))


def read(model) -> dict:
    """What is in a file, and how many bytes of it are fields that the schema does not know."""
    (graph,) = model.graph
    known = type(model).FromString(model.SerializeToString())
    known.DiscardUnknownFields()
    return {
        "unknown": model.ByteSize() - known.ByteSize(),
        "outputs": list(graph.output),
        "types": [op.type for op in graph.op],
        "inputs": {op.name: list(op.input) for op in graph.op},
        "weights": {
            op.name: [
                list(op.output_desc[0].shape.dim),
                type(op.output_desc[0])
                .DESCRIPTOR.fields_by_name["dtype"]
                .enum_type.values_by_number[op.output_desc[0].dtype]
                .name,
                hashlib.sha256(op.attr["value"].t.data).hexdigest(),
            ]
            for op in graph.op
            if op.type == "Const"
        },
        "strides": {op.name: list(op.attr["strides"].list.i) for op in graph.op if "strides" in op.attr},
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
