"""Arrays -> the bytes of a `.ckpt` file, in Milepost's profile of MindSpore's format. Paths are not known here.

`plan` says how long a file will be before any content is read, then streams it. ``docs/format.md`` is the specification
of what it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milepost.errors import UnsupportedStateError
from milepost.format import rows, schema, strict_json
from milepost.format.arrays import BLOCK_NBYTES, LARGE_NBYTES, check_arrays, measured, take
from milepost.format.checksum import Checksum
from milepost.format.collector import paused
from milepost.format.dtypes import DTYPES
from milepost.format.framing import framing
from milepost.format.spec import Array, Extent
from milepost.format.wire import FIELD_LIMIT, bytes_head


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


def _lay_out(array: Array, offset: int, slice_nbytes: int) -> _Part:
    content, nbytes = measured(array)
    if nbytes <= slice_nbytes:
        head = framing(array.spec, offset, nbytes)
        return _Part(array, content, (head,), (Extent(offset + len(head), nbytes),), nbytes)
    itemsize = DTYPES[array.spec.dtype].itemsize
    step = max(1, slice_nbytes // itemsize) * itemsize
    heads, extents = [], []
    for begin in range(0, nbytes, step):
        length = min(step, nbytes - begin)
        head = framing(array.spec, offset, length)
        extents.append(Extent(offset + len(head), length))
        heads.append(head)
        offset += len(head) + length
    return _Part(array, content, tuple(heads), tuple(extents), nbytes)


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
