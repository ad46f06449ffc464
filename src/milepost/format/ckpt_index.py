"""The bytes of a `.ckpt` file in Milepost's profile -> what it holds. Paths are not known here, nor are contents read.

`read_index` leaves to `scan` what MindSpore wrote. ``docs/format.md`` is the specification of what it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milepost.errors import DamagedCheckpointError, NotACheckpointError, SettingError
from milepost.format import crc, rows, schema, strict_json
from milepost.format.checksum import Checksum
from milepost.format.framing import framing
from milepost.format.scan import scan
from milepost.format.spec import Index, Source
from milepost.format.wire import FIELD_LIMIT, bytes_head, damaged


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
                head = framing(entry.spec, offset, extent.length)
                if len(head) != extent.offset - offset:
                    head = framing(entry.spec, offset, extent.length, may_be_placed=False)
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
        raise damaged(where, nbytes, "the end of the file", "a footer: the file was cut short, or changed there")
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
