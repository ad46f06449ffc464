"""What the tests of the format share: files in memory, arrays from bytes, and the schema in protobuf's own classes."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from milepost.format.ckpt_plan import plan
from milepost.format.containers import read_index
from milepost.format.spec import Array, ArraySpec


class BytesSource:
    """A file in memory that counts what is read and allows nothing beyond its end."""

    def __init__(self, content):
        self.content = content
        self.nbytes = len(content)
        self.reads = 0
        self.nbytes_read = 0

    def read(self, offset, length):
        assert 0 <= offset <= offset + length <= self.nbytes
        self.reads += 1
        self.nbytes_read += length
        return self.content[offset : offset + length]


@pytest.fixture(scope="session")
def source_of():
    """Bytes as a `Source`."""
    return BytesSource


@pytest.fixture(scope="session")
def read():
    """The index of a file given as bytes."""
    return lambda content: read_index(BytesSource(content), "test.ckpt")


@pytest.fixture(scope="session")
def array():
    """An `Array` from its content."""

    def make(name, dtype, shape, content, kind="parameter"):
        return Array(ArraySpec(name, dtype, tuple(shape)), kind, lambda: memoryview(content))

    return make


@pytest.fixture(scope="session")
def write():
    """A file's bytes, streamed in one go."""

    def make(arrays, metadata=None, aliases=None, **options):
        planned = plan(arrays, metadata or {}, aliases or {}, **options)
        content = b"".join(planned.chunks())
        assert len(content) == planned.nbytes
        return content

    return make


@pytest.fixture(scope="session")
def content_of():
    """An entry's content, joined from its extents."""
    return lambda content, entry: b"".join(content[run.offset : run.offset + run.length] for run in entry.extents)


@pytest.fixture(scope="session")
def judge():
    """MindSpore's `Checkpoint` message, as protobuf's own implementation makes it from the schema."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="checkpoint.proto", syntax="proto2")
    messages = {
        "Checkpoint": [("value", 1, field.LABEL_REPEATED, field.TYPE_MESSAGE, ".Value")],
        "Value": [
            ("tag", 1, field.LABEL_REQUIRED, field.TYPE_STRING, None),
            ("tensor", 2, field.LABEL_OPTIONAL, field.TYPE_MESSAGE, ".TensorProto"),
        ],
        "TensorProto": [
            ("dims", 1, field.LABEL_REPEATED, field.TYPE_INT64, None),
            ("tensor_type", 2, field.LABEL_REQUIRED, field.TYPE_STRING, None),
            ("tensor_content", 3, field.LABEL_REQUIRED, field.TYPE_BYTES, None),
        ],
    }
    for message, fields in messages.items():
        made = file.message_type.add(name=message)
        for name, number, label, kind, type_name in fields:
            made.field.add(name=name, number=number, label=label, type=kind, type_name=type_name)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Checkpoint"))
