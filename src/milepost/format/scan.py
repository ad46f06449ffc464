"""The index of a plain MindSpore `.ckpt`, collected from its records. Files of Milepost's own are not read here.

Such a file records neither its length nor its contents' checksums, so everything that can be checked is: MindSpore
itself takes a content that is too short or too long without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from milepost.errors import DamagedCheckpointError, NotACheckpointError
from milepost.format import crc, schema
from milepost.format.dtypes import DType, from_ckpt
from milepost.format.spec import ArraySpec, Entry, Extent, Index, Source
from milepost.format.wire import BYTES, VARINT, Field, Window, damaged, fields

TEXT_LIMIT = 1 << 20
"""Bytes of a tag or type; a file that claims more only costs time."""

_CHECK = "Check the path."
_TORCH = "If torch.load(path, weights_only=True) reads it, save what that gives with save_checkpoint."

OTHERS = (
    (0, b"PK\x03\x04", "a zip archive, such as torch.save writes", _TORCH),
    (0, b"\x80", "a pickle, such as torch.save once wrote", _TORCH),
    (0, b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (0, b"\x89HDF", "an HDF5 file", _CHECK),
    (0, b"\x93NUMPY", "a NumPy array", _CHECK),
    (0, b"GGUF", "a GGUF file", _CHECK),
    (0, b"\x08", "another protobuf message, such as an ONNX model", _CHECK),
)
"""Offset, bytes there, what that means, what to do. For the message only, when a file has turned out no checkpoint."""


def scan(source: Source, where: str) -> Index:
    """Return what a plain MindSpore file holds, fully checked; contents are skipped unless there is a CRC-32 to check.

    Raises:
        NotACheckpointError: The file is something else, or of a kind that this version does not read.
        DamagedCheckpointError: The file was a checkpoint once.
    """
    nbytes = source.nbytes
    if nbytes == 0:
        raise _not_a_checkpoint(where, "an empty file")
    start = source.read(0, min(nbytes, 16))
    end = crc.end_of(source)
    entries: dict[str, Entry] = {}
    try:
        for entry in _entries(Window(source, where, end)):
            if entry.spec.name in entries:
                raise damaged(where, entry.extents[0].offset, f"{entry.spec.name!r} once more", "each name once")
            entries[entry.spec.name] = entry
    except DamagedCheckpointError as error:
        if entries or _begins_like_a_record(start):
            raise
        raise _not_a_checkpoint(where, *_kind_of(start)) from error
    if not entries:
        raise _not_a_checkpoint(where, "a file without any entry")
    crc.check(source, where)
    return Index(entries, {}, {}, nbytes, None, "mindspore ckpt")


def _begins_like_a_record(start: bytes) -> bool:
    """Whether a file begins with a Value (key 0a, one length) that begins with its tag (key 0a)."""
    behind_length = 1 + next((position for position, byte in enumerate(start[1:], 1) if byte < 0x80), len(start))
    return start[:1] == b"\n" and start[behind_length : behind_length + 1] == b"\n"


def _kind_of(start: bytes) -> tuple[str, str]:
    for offset, magic, kind, remedy in OTHERS:
        if start[offset:].startswith(magic):
            return kind, remedy
    return f"a file that begins with {start[:8].hex(' ')}", _CHECK


def _not_a_checkpoint(where: str, found: str, remedy: str = _CHECK) -> NotACheckpointError:
    return NotACheckpointError(where, found=found, expected="a .ckpt file of Milepost's or MindSpore's", remedy=remedy)


class _Record(NamedTuple):
    """A Value as it stands in the file: a whole entry, or a slice of one."""

    offset: int
    tag: str
    dims: tuple[int, ...]
    dtype: DType
    content: Extent


def _entries(window: Window) -> Iterator[Entry]:
    """Join adjacent records of one tag, which are slices, into entries."""
    for _, slices in groupby(_records(window), key=lambda record: record.tag):
        yield _entry(window.where, list(slices))


def _records(window: Window) -> Iterator[_Record]:
    for at in fields(window, 0, window.end):
        if at.number in (schema.HEADER_FIELD, schema.METADATA_FIELD, schema.INDEX_FIELD, schema.FOOTER_FIELD):
            raise damaged(window.where, at.offset, "a field of Milepost's own", "it together with header and footer")
        if at.number == schema.CHECKPOINT_VALUE:
            yield _record(window, _run(window, at, "a Value"))


def _record(window: Window, value: Field) -> _Record:
    tag: str | None = None
    tensor: Field | None = None
    for at in fields(window, value.offset, value.end):
        if at.number == schema.VALUE_TAG:
            tag = _text(window, at, "a tag", tag)
        elif at.number == schema.VALUE_TENSOR:
            tensor = _once(window, at, "a tensor", tensor)
        elif at.number == schema.VALUE_MAPTENSOR:
            raise _unknown(window.where, tag, "a hash table (MapParameter)")
    if not tag or tensor is None:
        raise damaged(window.where, value.offset, "a Value without tag or tensor", "both in each Value")
    return _tensor(window, tensor, tag)


def _tensor(window: Window, tensor: Field, tag: str) -> _Record:
    dims: list[int] = []
    spelling: str | None = None
    content: Field | None = None
    for at in fields(window, tensor.offset, tensor.end):
        if at.number == schema.TENSOR_DIMS:
            for dim in _dims(window, at):
                if len(dims) == schema.DIMENSIONS_LIMIT:
                    raise damaged(window.where, at.offset, "more dimensions", f"at most {schema.DIMENSIONS_LIMIT}")
                dims.append(dim)
        elif at.number == schema.TENSOR_TYPE:
            spelling = _text(window, at, "a tensor_type", spelling)
        elif at.number == schema.TENSOR_CONTENT:
            content = _once(window, at, "a content", content)
    if spelling is None or content is None:
        raise damaged(window.where, tensor.offset, "a tensor without type or content", "both in each tensor")
    dtype = from_ckpt(spelling)
    if dtype is None:
        raise _unknown(window.where, tag, f"the tensor_type {spelling[:40]!r}")
    return _Record(tensor.offset, tag, tuple(dims), dtype, Extent(content.offset, content.length))


def _unknown(where: str, tag: str | None, found: str) -> NotACheckpointError:
    return NotACheckpointError(
        f"{where}, entry {tag!r}",
        found=found,
        expected="a tensor or a text of a type that Milepost knows",
        remedy="Save the file in MindSpore without this entry; if it was readable once, load an earlier checkpoint.",
    )


def _run(window: Window, at: Field, what: str) -> Field:
    if at.wire_type != BYTES:
        raise damaged(window.where, at.offset, f"{what} of wire type {at.wire_type}", f"wire type {BYTES}")
    return at


def _once(window: Window, at: Field, what: str, earlier: object) -> Field:
    if earlier is not None:
        raise damaged(window.where, at.offset, f"{what} once more", "one")
    return _run(window, at, what)


def _text(window: Window, at: Field, what: str, earlier: str | None) -> str:
    if _once(window, at, what, earlier).length > TEXT_LIMIT:
        raise damaged(window.where, at.offset, f"{what} of {at.length} bytes", f"at most {TEXT_LIMIT}")
    try:
        return window.read(at.offset, at.length).decode()
    except UnicodeDecodeError as error:
        raise damaged(window.where, at.offset, f"{what} that is not UTF-8", "Unicode") from error


def _dims(window: Window, at: Field) -> Iterator[int]:
    """One dimension, or several packed into one field."""
    if at.wire_type not in (VARINT, BYTES):
        raise damaged(window.where, at.offset, f"dims of wire type {at.wire_type}", f"wire type {VARINT} or {BYTES}")
    offset = at.offset
    while offset < at.end:
        dim, offset = window.varint(offset, at.end)
        if dim >= 2**63:  # how protobuf writes what is below zero
            raise damaged(window.where, at.offset, f"the dimension {dim - 2**64}", "0 or more")
        yield dim


def _entry(where: str, slices: list[_Record]) -> Entry:
    offset, tag, dims, dtype, _ = slices[0]
    for record in slices:
        if (record.dims, record.dtype) != (dims, dtype):
            raise damaged(where, record.offset, f"a slice of {tag!r} with another type or shape", "the same")
    nbytes = sum(record.content.length for record in slices)
    # The dims [0] stand for a text, for a scalar (before MindSpore 2.10), and for no element at all.
    spec = ArraySpec(tag, dtype.name, () if dims == (0,) and nbytes else dims)
    if not spec.is_filled_by(nbytes):
        raise damaged(where, offset, f"{nbytes} bytes for {tag!r}, {dtype.name} {list(dims)}", "what fits")
    # MindSpore may write empty slices; only an entry without any element needs one.
    extents = tuple([record.content for record in slices if record.content.length]) or (slices[0].content,)
    return Entry(spec, "unknown", extents, None)
