"""Arrays <-> the bytes of a safetensors file: planned, and read, as a `.ckpt` is. Paths are not known here.

Source: https://github.com/huggingface/safetensors, README and ``safetensors/src/tensor.rs``. What such a file has no
place for stands in its ``__metadata__`` (`companion`), as docs/format.md specifies.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milepost.errors import DamagedCheckpointError, NotACheckpointError, SettingError, UnsupportedStateError
from milepost.format import companion, schema, strict_json
from milepost.format.arrays import BLOCK_NBYTES, LARGE_NBYTES, check_arrays, measured, take
from milepost.format.checksum import Checksum
from milepost.format.companion import Companion, Fact
from milepost.format.dtypes import DTYPES, from_safetensors
from milepost.format.spec import Array, ArraySpec, Entry, Extent, Index, Source
from milepost.format.wire import damaged

LENGTH_NBYTES = 8
HEADER_LIMIT = 100_000_000
"""Bytes of a header; safetensors' own limit."""

METADATA = "__metadata__"
CRC = "crc_num"
"""Under this MindSpore keeps the CRC-32 (zlib's) of all names and contents, in the order of the names, in decimal."""

ZEROS_LIMIT = 1 << 30
"""How many bytes a single number may stand for in that CRC-32; MindSpore has them all in memory."""


def is_one(source: Source) -> bool:
    """Whether a file begins like safetensors: a length of at most 48 bits, then an object of JSON."""
    start = source.read(0, min(source.nbytes, LENGTH_NBYTES + 1))
    # In a protobuf file, which may have any byte in this place, the first eight never are so small a number.
    return start[LENGTH_NBYTES:] == b"{" and start[6:8] == b"\0\0"


def read_index(source: Source, where: str) -> Index:
    """Return what a safetensors file holds, fully checked, without reading the contents.

    Args:
        source: The file.
        where: The file's place in words, for messages.

    Returns:
        The index. Where MindSpore added a CRC-32, the whole file is read once to check it.

    Raises:
        NotACheckpointError: The file has what this version does not read.
        DamagedCheckpointError: The file is not as it was saved.
    """
    header, begin = _read_header(source, where)
    texts = header.pop(METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _broken(where, f"{METADATA} of another form", "an object of texts")
    entries = {name: _entry(where, name, item, begin, texts) for name, item in header.items()}
    _check_places(where, entries, begin, source.nbytes)
    beside = companion.find(texts, where, entries)
    if beside is not None:
        entries = {fact.spec.name: _told(where, fact, entries[fact.spec.name]) for fact in beside.facts}
    if CRC in texts:
        _check_crc(source, where, entries, texts[CRC])
    aliases, metadata = (beside.aliases, beside.metadata) if beside is not None else ({}, {})
    return Index(entries, aliases, metadata, source.nbytes, None, "safetensors")


def _read_header(source: Source, where: str) -> tuple[dict[str, Any], int]:
    """The JSON of the header, and where the contents begin."""
    room = min(source.nbytes - LENGTH_NBYTES, HEADER_LIMIT)
    length = int.from_bytes(source.read(0, LENGTH_NBYTES), "little")
    if length > room:
        raise damaged(where, 0, f"a header of {length} bytes", f"at most {room}")
    try:
        header = strict_json.decode(source.read(LENGTH_NBYTES, length))
        strict_json.check(header)
    except ValueError as error:
        raise damaged(where, LENGTH_NBYTES, f"no JSON ({error!s:.200})", "a JSON object") from error
    if not isinstance(header, dict):
        raise damaged(where, LENGTH_NBYTES, f"a JSON {type(header).__name__}", "a JSON object")
    return header, LENGTH_NBYTES + length


def _entry(where: str, name: str, item: Any, begin: int, texts: Mapping[str, str]) -> Entry:
    try:
        spelling, shape, (first, last) = item["dtype"], item["shape"], item["data_offsets"]
        sound = [type(number) is int and 0 <= number < 2**63 for number in (*shape, first, last)]
    except (LookupError, TypeError, ValueError) as error:
        raise _broken(where, f"{name!r} described as {item!r:.80}", "dtype, shape and data_offsets") from error
    dtype = from_safetensors(spelling) if isinstance(spelling, str) else None
    if dtype is None:
        raise NotACheckpointError(
            f"{where}, entry {name!r}",
            found=f"the dtype {spelling!r:.40}",
            expected="one of " + ", ".join(each.safetensors for each in DTYPES.values() if each.safetensors),
            remedy="Convert it with the program that wrote the file, or leave the entry out.",
        )
    if dtype.name == "int8" and texts.get(name) == DTYPES["int4"].ckpt:  # so MindSpore marks its qint4x2
        dtype = DTYPES["int4"]
    if not all(sound) or len(shape) > schema.DIMENSIONS_LIMIT:
        raise _broken(where, f"{name!r} of shape {shape!r:.80} from {first!r} to {last!r}", "numbers of 0 or more")
    spec = ArraySpec(name, dtype.name, tuple(shape))
    if first > last or not spec.is_filled_by(last - first):
        raise _broken(where, f"{name!r}, {spelling} {shape!r:.80} from {first} to {last}", "as many bytes as it has")
    return Entry(spec, "unknown", (Extent(begin + first, last - first),), None)


def _check_places(where: str, entries: Mapping[str, Entry], begin: int, end: int) -> None:
    """The contents stand one behind the other, from the header to the end of the file: nothing hides between them."""
    at = begin
    for entry in sorted(entries.values(), key=lambda each: (each.extents[0].offset, each.extents[0].length)):
        (extent,) = entry.extents
        if extent.offset != at:
            raise damaged(where, at, f"{entry.spec.name!r} at byte {extent.offset}", "contents without hole or overlap")
        at += extent.length
    if at != end:
        raise damaged(where, at, f"the end of the contents in a file of {end} bytes", "both in one place")


def _told(where: str, fact: Fact, entry: Entry) -> Entry:
    """An entry as the companion knows it, which must be how it is stored."""
    told = Entry(fact.spec, fact.kind, entry.extents, fact.checksum)
    stored = entry.spec.dtype, entry.spec.shape
    if not fact.spec.is_filled_by(entry.nbytes) or stored != _stored_as(fact.spec, entry.nbytes):
        raise _broken(
            where, f"{fact.spec.name!r} as {stored[0]} {list(stored[1])}", f"{fact.spec}, as Milepost wrote it"
        )
    return told


def _stored_as(spec: ArraySpec, nbytes: int) -> tuple[str, tuple[int, ...]]:
    """Dtype and shape of an array in the file; where safetensors has no such type, of the bytes of its content."""
    if DTYPES[spec.dtype].safetensors or spec.dtype == "int4":
        return spec.dtype, spec.shape
    return "uint8", (nbytes,)


def _check_crc(source: Source, where: str, entries: Mapping[str, Entry], expected: str) -> None:
    crc = 0
    for _, entry in sorted(entries.items()):
        (extent,) = entry.extents
        blocks = (
            source.read(offset, min(BLOCK_NBYTES, extent.offset + extent.length - offset))
            for offset in range(extent.offset, extent.offset + extent.length, BLOCK_NBYTES)
        )
        crc = _crc_of(entry.spec, blocks, crc)
    if str(crc) != expected:
        raise _broken(where, f"names and contents with the CRC-32 {crc}", f"{expected:.20}, as saved")


def _crc_of(spec: ArraySpec, blocks: Iterable[bytes | memoryview], crc: int) -> int:
    """Go on with MindSpore's CRC-32, by a name and a content."""
    crc = zlib.crc32(spec.name.encode(), crc)
    if spec.shape == () and spec.dtype.startswith(("int", "uint")):
        # MindSpore takes bytes(array), which of a whole number n, a scalar, are n zeros.
        content = b"".join(blocks)
        number = int.from_bytes(content, "little", signed=spec.dtype.startswith("int"))
        is_hashed_so = 0 <= number <= ZEROS_LIMIT
        blocks = (bytes(min(BLOCK_NBYTES, number - at)) for at in range(0, number, BLOCK_NBYTES))
        blocks = blocks if is_hashed_so else (content,)
    for block in blocks:
        crc = zlib.crc32(block, crc)
    return crc


def _broken(where: str, found: str, expected: str) -> DamagedCheckpointError:
    return damaged(f"{where}, header", LENGTH_NBYTES, found, expected)


def plan(
    arrays: Sequence[Array],
    metadata: Mapping[str, Any],
    aliases: Mapping[str, str] = {},
    *,
    framework: str = "pt",
    crc: bool = False,
) -> Plan:
    """Lay out a safetensors file, as `ckpt_plan.plan` does a `.ckpt`.

    Args:
        arrays: What the file will hold; a reader that knows the companion finds them in this order.
        metadata: A JSON object for the reader.
        aliases: Further names for arrays, each with the name of the array that it stands for.
        framework: The ``format`` in the metadata: ``pt``, which Hugging Face's readers ask for, or ``ms``.
        crc: Whether to add MindSpore's CRC-32.

    Raises:
        SettingError: As `ckpt_plan.plan`; or an array is called ``__metadata__``.
        UnsupportedStateError: The metadata holds what JSON does not, or is too large for a header.
    """
    check_arrays(arrays, aliases)
    parts = [_Part(array, *measured(array)) for array in arrays]
    for part in parts:
        if part.spec.name == METADATA:
            raise SettingError(
                f"entry {METADATA!r}",
                found="an array of this name",
                expected="one that safetensors does not use itself",
                remedy="Rename it, or save a .ckpt.",
            )
    return Plan(parts, metadata, aliases, framework, crc=crc)


@dataclass(frozen=True, slots=True)
class _Part:
    """An array, and what its content is like in the file."""

    array: Array
    content: Callable[[], memoryview]
    nbytes: int

    @property
    def spec(self) -> ArraySpec:
        return self.array.spec

    def take(self) -> memoryview:
        return take(self.array, self.content, self.nbytes)

    @property
    def stored(self) -> tuple[str, tuple[int, ...]]:
        return _stored_as(self.spec, self.nbytes)

    @property
    def itemsize(self) -> int:
        return DTYPES[self.stored[0]].itemsize


class Plan:
    """A safetensors file laid out: its size is known, its bytes come when they are asked for. Made by `plan`."""

    def __init__(
        self,
        parts: Sequence[_Part],
        metadata: Mapping[str, Any],
        aliases: Mapping[str, str],
        framework: str,
        *,
        crc: bool,
    ) -> None:
        self._parts = parts
        # The largest elements first, as safetensors itself does it: so each content is aligned to its elements.
        self._stored = sorted(parts, key=lambda part: -part.itemsize)
        self._metadata = metadata
        self._aliases = aliases
        self._texts = {"format": framework}
        self._texts |= {part.spec.name: DTYPES["int4"].ckpt for part in parts if part.spec.dtype == "int4"}
        self._has_crc = crc
        self._held = {part.spec.name: part.array.release for part in parts if part.array.release is not None}
        self._header_nbytes = len(self._json([0] * len(parts), "9" * 10 if crc else None))
        self._header_nbytes += -(LENGTH_NBYTES + self._header_nbytes) % schema.ALIGNMENT
        if self._header_nbytes > HEADER_LIMIT:
            raise UnsupportedStateError(
                "header",
                found=f"{self._header_nbytes} bytes of JSON",
                expected=f"at most {HEADER_LIMIT}",
                remedy="Save a .ckpt, or store what is large as an array.",
            )

    @property
    def nbytes(self) -> int:
        """The exact size of the file in bytes."""
        return LENGTH_NBYTES + self._header_nbytes + sum(part.nbytes for part in self._parts)

    def chunks(self, new_checksum: Callable[[], Checksum] = Checksum) -> Iterator[bytes | memoryview]:
        """Stream the file. The header has the checksums, so a content whose checksum is not known is asked for twice.

        Memory holds one content at a time, if each chunk is let go of when the next is asked for.

        Args:
            new_checksum: As `Layout.chunks` has it.

        Raises:
            UnsupportedStateError: A content does not have the length that its spec announced, or changed meanwhile.
        """
        checksums, crc = self._checksums()
        header = self._json(list(checksums.values()), crc).ljust(self._header_nbytes)
        pending = bytearray(len(header).to_bytes(LENGTH_NBYTES, "little") + header)
        for part in self._stored:
            if part.nbytes < LARGE_NBYTES:
                content = part.take()
                found = Checksum.of(content)
                pending += content
            else:
                # Handed out before the content is made: the caller lets go of the last content for it.
                yield bytes(pending)
                pending.clear()
                checksum = new_checksum()
                yield from _blocks(part, checksum)
                found = checksum.value()
            if found != checksums[part.spec.name]:
                raise UnsupportedStateError(
                    f"entry {part.spec.name!r}",
                    found="a content that changed while it was saved",
                    expected="the same until the end",
                    remedy="Keep the array as it is until the save has ended.",
                )
            self._release(part.spec.name)
            if len(pending) >= BLOCK_NBYTES:
                yield bytes(pending)
                pending.clear()
        yield bytes(pending)

    def release(self) -> None:
        """Release the arrays that are not yet: the save is done, or given up. Harmless a second time."""
        for name in list(self._held):
            self._release(name)

    def _release(self, name: str) -> None:
        release = self._held.pop(name, None)
        if release is not None:
            release()

    def _checksums(self) -> tuple[dict[str, int], str | None]:
        """Of each content, by name, in the order of the parts; and the CRC-32 of all, if there is to be one."""
        crc = 0
        found = {}
        for part in sorted(self._parts, key=lambda part: part.spec.name):
            known = part.array.checksum
            if self._has_crc:
                crc = _crc_of(part.spec, (part.take(),), crc)
            found[part.spec.name] = Checksum.of(part.take()) if known is None else known
        return {part.spec.name: found[part.spec.name] for part in self._parts}, str(crc) if self._has_crc else None

    def _json(self, checksums: Sequence[int], crc: str | None) -> bytes:
        facts = tuple(
            Fact(part.spec, part.array.kind, checksum) for part, checksum in zip(self._parts, checksums, strict=True)
        )
        texts = self._texts | Companion(facts, self._aliases, self._metadata).encode()
        if crc is not None:
            texts[CRC] = crc
        header: dict[str, Any] = {METADATA: texts}
        at = 0
        for part in self._stored:
            dtype, shape = part.stored
            places = [at, at + part.nbytes]
            header[part.spec.name] = {"dtype": _spelling(dtype), "shape": shape, "data_offsets": places}
            at += part.nbytes
        return strict_json.dump(header)


def _spelling(dtype: str) -> str | None:
    return "I8" if dtype == "int4" else DTYPES[dtype].safetensors


def _blocks(part: _Part, checksum: Checksum) -> Iterator[memoryview]:
    content = part.take()
    for begin in range(0, len(content), BLOCK_NBYTES):
        block = content[begin : begin + BLOCK_NBYTES]
        checksum.update(block)
        yield block
