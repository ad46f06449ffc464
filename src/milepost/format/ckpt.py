"""Arrays <-> the bytes of a `.ckpt` file, in Milepost's profile of MindSpore's format. Paths are not known here.

`plan` says how long a file will be before any content is read, then streams it. `read_index` says what a file holds
without reading the contents. ``docs/format.md`` is the specification of what both do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from milepost.errors import DamagedCheckpointError, NotACheckpointError, SettingError, UnsupportedStateError
from milepost.format import crc, rows, schema, strict_json
from milepost.format.checksum import Checksum
from milepost.format.collector import paused
from milepost.format.dtypes import DTYPES
from milepost.format.scan import scan
from milepost.format.spec import KINDS, Array, ArraySpec, Extent, Index, Source
from milepost.format.wire import FIELD_LIMIT, bytes_field, bytes_head, damaged, varint_field

BLOCK_NBYTES = 4 << 20
"""Bytes that are checksummed and handed out at a time: the fewer pieces, the better for a disk; docs/performance.md."""

LARGE_NBYTES = 16 << 10
"""From here on a content is handed out as it lies; a smaller one is copied, which costs less than another write."""


def encode_text(text: str) -> bytes:
    """Return a text as the content of a `str` entry: UTF-32-LE without a byte order mark, never empty.

    Raises:
        UnsupportedStateError: The text has no form in Unicode, or ends in NUL, which MindSpore takes for filling.

    >>> encode_text("a").hex(), encode_text("").hex()
    ('61000000', '00000000')
    """
    if text.endswith("\0") or not strict_json.is_unicode(text):
        raise UnsupportedStateError(
            "text",
            found=repr(text[-40:]),
            expected="Unicode that does not end in NUL",
            remedy="Store it as an array of uint8.",
        )
    return text.encode("utf-32-le") or bytes(4)


def decode_text(content: bytes | bytearray | memoryview, where: str = "text") -> str:
    """Return the text that a `str` entry holds.

    Raises:
        DamagedCheckpointError: The content is no UTF-32-LE.

    >>> decode_text(bytes(4))
    ''
    """
    try:
        return str(content, "utf-32-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise damaged(where, error.start, "no Unicode character", "a text in UTF-32-LE") from error


@paused()
def plan(
    arrays: Sequence[Array],
    metadata: Mapping[str, Any],
    aliases: Mapping[str, str] = {},
    *,
    slice_nbytes: int = schema.SLICE_NBYTES,
) -> Plan:
    """Lay out a checkpoint file; no content is read yet but that of texts, whose length nothing else tells.

    Args:
        arrays: What the file will hold, in this order.
        metadata: A JSON object for the reader; non-finite numbers and keys that are no texts are refused.
        aliases: Further names for arrays, each with the name of the array that it stands for.
        slice_nbytes: Contents longer than this are cut. The default suits every reader.

    Returns:
        The layout, ready to be streamed.

    Raises:
        SettingError: A name is empty, not Unicode or given twice; an alias stands for nothing; a dtype, kind or
            shape does not exist.
        UnsupportedStateError: The metadata holds what JSON does not.

    >>> from milepost.format.spec import Array, ArraySpec
    >>> three = Array(ArraySpec("w", "uint8", (3,)), "parameter", lambda: memoryview(b"abc"))
    >>> planned = plan([three], {"epoch": 1})
    >>> planned.nbytes == len(b"".join(planned.chunks()))
    True
    """
    check_arrays(arrays, aliases)
    parts, offset = [], schema.HEADER_NBYTES
    for array in arrays:
        part = _lay_out(array, offset, slice_nbytes)
        parts.append(part)
        offset = part.end
    return Plan(parts, offset, strict_json.encode(metadata, "metadata"), dict(aliases))


def check_arrays(arrays: Sequence[Array], aliases: Mapping[str, str]) -> None:
    """Refuse, as a `SettingError`, what no container could give back: the names, dtypes, kinds and shapes of `plan`."""
    _check_names([array.spec.name for array in arrays], aliases)
    for array in arrays:
        _check_array(array)


def _check_names(names: Sequence[str], aliases: Mapping[str, str]) -> None:
    seen: set[str] = set()
    for name in [*names, *aliases]:
        if not name or not strict_json.is_unicode(name):
            raise _unusable(name, "an empty name" if not name else "half of a surrogate pair in it", "a Unicode name")
        if name in seen:
            raise _unusable(name, "two entries of this name", "each name once")
        seen.add(name)
    for alias, name in aliases.items():
        if name not in seen or name in aliases:
            raise _unusable(alias, f"an alias for {name!r}", "the name of an array of this file")


def _check_array(array: Array) -> None:
    spec = array.spec
    if spec.dtype not in DTYPES:
        raise _unusable(spec.name, f"the dtype {spec.dtype!r}", "one of " + ", ".join(DTYPES))
    if array.kind not in KINDS:
        raise _unusable(spec.name, f"the kind {array.kind!r}", "one of " + ", ".join(KINDS))
    if len(spec.shape) > schema.DIMENSIONS_LIMIT or (
        spec.shape and not 0 <= min(spec.shape) <= max(spec.shape) < 2**63
    ):
        raise _unusable(
            spec.name, f"the shape {spec.shape}", f"at most {schema.DIMENSIONS_LIMIT} lengths from 0 to 2**63 - 1"
        )
    if spec.dtype == "str" and spec.shape:
        raise _unusable(spec.name, f"a text of shape {spec.shape}", "one text, of shape ()")


def _unusable(name: str, found: str, expected: str) -> SettingError:
    return SettingError(f"entry {name!r}", found=found, expected=expected, remedy="Correct it before saving.")


@dataclass(slots=True)  # not frozen, which takes three times as long to make
class _Part:
    """An array's place in the file: what stands before each run of its content, and where the run goes."""

    array: Array
    content: Callable[[], memoryview]
    heads: tuple[bytes, ...]
    extents: tuple[Extent, ...]
    nbytes: int

    @property
    def end(self) -> int:
        return self.extents[-1].offset + self.extents[-1].length

    def take(self) -> memoryview:
        return take(self.array, self.content, self.nbytes)

    def row(self) -> list[object]:
        """The part's row in the index, its checksum still to be known."""
        return rows.row(self.array.spec, self.array.kind, self.extents, 0)

    def runs(self, content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
        """Each head with the run of content behind it."""
        if len(self.heads) == 1:
            yield self.heads[0], content
            return
        begin = 0
        for head, extent in zip(self.heads, self.extents, strict=True):
            yield head, content[begin : begin + extent.length]
            begin += extent.length


def take(array: Array, content: Callable[[], memoryview], nbytes: int) -> memoryview:
    """The content, after a look at its length; what was announced can no longer be changed."""
    taken = memoryview(content())
    if not len(taken) == taken.nbytes == nbytes:
        raise UnsupportedStateError(
            f"entry {array.spec.name!r}",
            found=f"a content of {len(taken)} items in {taken.nbytes} bytes",
            expected=f"{nbytes} bytes for {array.spec.dtype} {array.spec.shape}",
            remedy="Keep the array as it is until the save has ended.",
        )
    return taken


def measured(array: Array) -> tuple[Callable[[], memoryview], int]:
    """What gives the content, and its length; nothing but a text's own content tells how long that is.

    Raises:
        SettingError: The content does not fit its spec.
    """
    content, nbytes = array.content, 0
    if array.spec.dtype == "str":
        text = array.content()
        content, nbytes = (lambda: text), len(text)
    else:
        nbytes = array.spec.nbytes
    if not array.spec.is_filled_by(nbytes):
        raise _unusable(
            array.spec.name, f"{nbytes} bytes for {array.spec.shape}", "what encode_text, or an array, gives"
        )
    return content, nbytes


def _lay_out(array: Array, offset: int, slice_nbytes: int) -> _Part:
    content, nbytes = measured(array)
    if nbytes <= slice_nbytes:
        head = _value_head(array.spec, offset, nbytes)
        return _Part(array, content, (head,), (Extent(offset + len(head), nbytes),), nbytes)
    itemsize = DTYPES[array.spec.dtype].itemsize
    step = max(1, slice_nbytes // itemsize) * itemsize
    heads, extents = [], []
    for begin in range(0, nbytes, step):
        length = min(step, nbytes - begin)
        head = _value_head(array.spec, offset, length)
        extents.append(Extent(offset + len(head), length))
        heads.append(head)
        offset += len(head) + length
    return _Part(array, content, tuple(heads), tuple(extents), nbytes)


def _value_head(spec: ArraySpec, offset: int, length: int, *, may_be_placed: bool = True) -> bytes:
    """What stands at `offset`, before `length` bytes of content: a Value up to there, padded to the alignment.

    The first writers of the profile placed no content.
    """
    # MindSpore writes a text's dims as [0] and a scalar's not at all.
    tag = bytes_field(schema.VALUE_TAG, spec.name.encode())
    dims = (0,) if spec.dtype == "str" else spec.shape
    is_placed = may_be_placed and length >= schema.PLACED_NBYTES
    modulus, remainder = (schema.PLACED_MODULUS, schema.PLACED_REMAINDER) if is_placed else (schema.ALIGNMENT, 0)
    room = (remainder - offset) % modulus
    value_head, behind, nbytes = _frame(len(tag), spec.dtype, dims, length, room, modulus)
    if nbytes >= FIELD_LIMIT:
        raise _unusable(spec.name[:40], f"a record of {nbytes} bytes", f"less than {FIELD_LIMIT}")
    return b"".join([value_head, tag, behind])


@lru_cache(maxsize=4096)  # a model has many tensors of one shape
def _frame(
    tag_nbytes: int, dtype: str, dims: tuple[int, ...], length: int, room: int, modulus: int
) -> tuple[bytes, bytes, int]:
    """What stands before and behind a Value's tag, up to its content, and the length of the Value.

    All before the content fills `room` up, or that and a multiple of `modulus`.
    """
    dims_fields = [varint_field(schema.TENSOR_DIMS, dim) for dim in dims]
    front = b"".join(dims_fields) + bytes_field(schema.TENSOR_TYPE, DTYPES[dtype].ckpt.encode())
    content_head = bytes_head(schema.TENSOR_CONTENT, length)
    padding = 0
    while True:  # More padding can make the lengths before it a byte longer, so one round need not be enough.
        padding_head = bytes_head(schema.TENSOR_PADDING, padding)
        tensor_nbytes = len(front) + len(padding_head) + padding + len(content_head) + length
        tensor_head = bytes_head(schema.VALUE_TENSOR, tensor_nbytes)
        value_nbytes = tag_nbytes + len(tensor_head) + tensor_nbytes
        value_head = bytes_head(schema.CHECKPOINT_VALUE, value_nbytes)
        missing = (room - len(value_head) - value_nbytes + length) % modulus
        if not missing:
            return value_head, b"".join([tensor_head, front, padding_head, bytes(padding), content_head]), value_nbytes
        padding += missing


class Plan:
    """A checkpoint file laid out: its size is known, its bytes come when they are asked for. Made by `plan`."""

    def __init__(self, parts: Sequence[_Part], offset: int, metadata: bytes, aliases: dict[str, str]) -> None:
        self._parts = parts
        self._offset = offset
        self._metadata = metadata
        self._aliases = aliases
        self._held = {place: part.array.release for place, part in enumerate(parts) if part.array.release is not None}
        self._rows = [part.row() for part in parts]
        self._nbytes = offset + len(self._tail([0] * len(parts), 0))

    @property
    def nbytes(self) -> int:
        """The exact size of the file in bytes."""
        return self._nbytes

    def chunks(self, new_checksum: Callable[[], Checksum] = Checksum) -> Iterator[bytes | memoryview]:
        """Stream the file: each content is asked for once, in its turn, checksummed, and let go of.

        Memory holds one content at a time, if each chunk is let go of when the next is asked for: then its bytes count
        as taken in, and an array whose last chunk it was is released.

        Args:
            new_checksum: As `Layout.chunks` has it.

        Raises:
            UnsupportedStateError: A content does not have the length that its spec announced.
        """
        pending = bytearray(schema.HEADER_HEAD + schema.HEADER_FORMAT.pack(schema.MAGIC, schema.PROFILE))
        checksums = []
        for place, part in enumerate(self._parts):
            if part.nbytes < LARGE_NBYTES:
                content = part.take()
                checksums.append(Checksum.of(content))
                for head, run in part.runs(content):
                    pending += head
                    pending += run
                del content, run
            else:
                # Handed out before the content is made: the caller lets go of the last content for it.
                pending += part.heads[0]
                yield bytes(pending)
                pending.clear()
                checksum = new_checksum()
                yield from _large_runs(part, checksum)
                checksums.append(checksum.value())
            self._release(place)
            if len(pending) >= BLOCK_NBYTES:
                yield bytes(pending)
                pending.clear()
        pending += self._tail(checksums, self._nbytes)
        yield bytes(pending)

    def release(self) -> None:
        """Release the arrays that are not yet: the save is done, or given up. Harmless a second time."""
        for place in list(self._held):
            self._release(place)

    def _release(self, place: int) -> None:
        release = self._held.pop(place, None)
        if release is not None:
            release()

    def _tail(self, checksums: Iterable[int], nbytes: int) -> bytes:
        """Metadata, index and footer; as long for one set of checksums as for any other."""
        for row, checksum in zip(self._rows, checksums, strict=True):
            row[rows.CHECKSUM] = f"{checksum:016x}"
        index = rows.encode(self._rows, self._aliases)
        metadata_head = bytes_head(schema.METADATA_FIELD, len(self._metadata))
        index_head = bytes_head(schema.INDEX_FIELD, len(index))
        if max(len(self._metadata), len(index)) >= FIELD_LIMIT:
            raise UnsupportedStateError(
                "metadata and index",
                found=f"{len(self._metadata)} and {len(index)} bytes of JSON",
                expected=f"less than {FIELD_LIMIT} each",
                remedy="Store what is large as an array.",
            )
        metadata_offset = self._offset + len(metadata_head)
        index_offset = metadata_offset + len(self._metadata) + len(index_head)
        footer = schema.FOOTER_FORMAT.pack(
            metadata_offset,
            len(self._metadata),
            Checksum.of(self._metadata),
            index_offset,
            len(index),
            Checksum.of(index),
            nbytes,
            schema.PROFILE,
            schema.MAGIC,
        )
        return metadata_head + self._metadata + index_head + index + schema.FOOTER_HEAD + footer


def _large_runs(part: _Part, checksum: Checksum) -> Iterator[bytes | memoryview]:
    """A large part from behind its first head, in blocks."""
    for position, (head, run) in enumerate(part.runs(part.take())):
        if position:
            yield head
        for begin in range(0, len(run), BLOCK_NBYTES):
            block = run[begin : begin + BLOCK_NBYTES]
            checksum.update(block)
            yield block


def read_index(source: Source, where: str) -> Index:
    """Return what a `.ckpt` file holds, fully checked, without reading the contents.

    Args:
        source: The file.
        where: The file's place in words, for messages.

    Returns:
        The index of a file of Milepost's, read from its end; or of a plain MindSpore file, collected record by
        record. Where MindSpore added a CRC-32, the whole file is read once to check it.

    Raises:
        NotACheckpointError: The file is something else, or of a kind that this version does not read.
        DamagedCheckpointError: The file was a checkpoint once.
    """
    frame = _read_frame(source, where)
    if frame is None:
        return scan(source, where)
    metadata = frame.read_metadata(source, where)
    index = _read_json(source, f"{where}, index", frame.end, *frame.index)
    try:
        entries, aliases = rows.decode(index, min(frame.metadata[0], frame.index[0]))
    except ValueError as error:
        # The checksum is right, so this is how it was written: by a broken program, or to do harm.
        raise DamagedCheckpointError(
            f"{where}, index",
            found=f"{error!s:.200}",
            expected="rows as docs/format.md describes them",
            remedy="The file was written wrongly; do not trust it.",
        ) from error
    return Index(entries, aliases, metadata, source.nbytes, schema.PROFILE, "milepost ckpt")


def read_metadata(source: Source, where: str) -> dict[str, Any]:
    """Return a file's metadata alone: quicker than `read_index`, whose arguments and errors it has."""
    frame = _read_frame(source, where)
    return dict(scan(source, where).metadata) if frame is None else frame.read_metadata(source, where)


def verify_framing(source: Source, index: Index, where: str) -> None:
    """Compare every byte that is not content with what a writer of this index puts there.

    A load needs none of these bytes and checks none: the index is its authority. Another reader of the format may.

    Args:
        source: The file.
        index: What `read_index` returned for it; a plain MindSpore file has no framing that is known.
        where: The file's place in words, for messages.

    Raises:
        DamagedCheckpointError: A byte differs.
    """
    frame = _read_frame(source, where)
    if frame is None:
        return
    offset = schema.HEADER_NBYTES
    for entry in index.entries.values():
        for extent in entry.extents:
            try:
                head = _value_head(entry.spec, offset, extent.length)
                if len(head) != extent.offset - offset:
                    head = _value_head(entry.spec, offset, extent.length, may_be_placed=False)
            except SettingError as error:
                raise damaged(where, offset, error.found, error.expected) from error
            _expect(source, where, head, offset, extent.offset)
            offset = extent.offset + extent.length
    for number, place in ((schema.METADATA_FIELD, frame.metadata), (schema.INDEX_FIELD, frame.index)):
        _expect(source, where, bytes_head(number, place[1]), offset, place[0])
        offset = place[0] + place[1]
    if offset != frame.end:
        raise damaged(where, offset, f"{frame.end - offset} bytes before the footer", "none")
    crc.check(source, where)


def _expect(source: Source, where: str, head: bytes, begin: int, end: int) -> None:
    """Check that from `begin` to `end` there is `head` and nothing else."""
    # The lengths first: they bound what is read by what the file has.
    if end - begin != len(head) or source.read(begin, len(head)) != head:
        raise damaged(where, begin, "other bytes between the contents", f"the {len(head)} that belong there")


@dataclass(frozen=True, slots=True)
class _Frame:
    """What header and footer say: offset, length and checksum of metadata and index, and where the footer begins."""

    metadata: tuple[int, int, int]
    index: tuple[int, int, int]
    end: int

    def read_metadata(self, source: Source, where: str) -> dict[str, Any]:
        metadata = _read_json(source, f"{where}, metadata", self.end, *self.metadata)
        try:
            strict_json.check(metadata)
        except ValueError as error:
            raise damaged(f"{where}, metadata", self.metadata[0], str(error), "what JSON has everywhere") from error
        return metadata


def _read_frame(source: Source, where: str) -> _Frame | None:
    """Read and check header and footer; None for a file that has neither, MindSpore's or somebody else's."""
    nbytes = source.nbytes
    head = source.read(0, min(nbytes, schema.HEADER_NBYTES))
    behind = min(nbytes, schema.FOOTER_NBYTES + crc.NBYTES)
    tail = source.read(nbytes - behind, behind)
    if crc.is_trailer(tail[-crc.NBYTES :]):
        nbytes, tail = nbytes - crc.NBYTES, tail[: -crc.NBYTES]
    tail = tail[-schema.FOOTER_NBYTES :]
    has_header = head.startswith(schema.HEADER_HEAD + schema.MAGIC)
    has_footer = tail.endswith(schema.MAGIC)
    if not has_header and not has_footer:
        return None
    # From here on this is a file of Milepost's, and to scan it like MindSpore's would be to overlook damage.
    if not has_footer or nbytes < schema.HEADER_NBYTES + schema.FOOTER_NBYTES:
        raise damaged(where, nbytes, "the end of the file", "a footer: the file was cut short")
    if not has_header:
        raise damaged(where, 0, head.hex(" "), "the header that belongs to the footer")
    version = schema.HEADER_FORMAT.unpack(head[len(schema.HEADER_HEAD) :])[1]
    *places, size, version_again, _ = schema.FOOTER_FORMAT.unpack(tail[len(schema.FOOTER_HEAD) :])
    end = nbytes - len(tail)
    if version != version_again:
        raise damaged(where, 0, f"profile version {version}", f"{version_again}, as in the footer")
    if version != schema.PROFILE:
        raise NotACheckpointError(
            where,
            found=f"version {version} of the file format",
            expected=f"version {schema.PROFILE}",
            remedy="Update milepost.",
        )
    if not tail.startswith(schema.FOOTER_HEAD) or size != nbytes:
        raise damaged(where, end, f"a footer for {size} bytes", f"one for a file of {nbytes} bytes")
    return _Frame(tuple(places[:3]), tuple(places[3:]), end)


def _read_json(source: Source, where: str, limit: int, offset: int, length: int, checksum: int) -> dict[str, Any]:
    """Read a JSON object that ends before `limit`."""
    room = min(max(0, limit - offset), FIELD_LIMIT - 1)
    if length > room:
        raise damaged(where, offset, f"{length} bytes announced", f"at most {room}")
    text = source.read(offset, length)
    if Checksum.of(text) != checksum:
        raise damaged(where, offset, f"bytes with the checksum {Checksum.of(text):016x}", f"{checksum:016x}, as saved")
    try:
        value = strict_json.decode(text)
    except ValueError as error:
        raise damaged(where, offset, f"no JSON ({error})", "a JSON object") from error
    if not isinstance(value, dict):
        raise damaged(where, offset, f"a JSON {type(value).__name__}", "a JSON object")
    return value
