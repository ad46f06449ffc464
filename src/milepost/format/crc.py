"""MindSpore's CRC trailer: 17 bytes behind a file that are no protobuf. What the file holds is not known here.

The trailer is ``crc_num`` in ASCII and the CRC-32 (zlib's) of everything before it, ten bytes, big-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from milepost.format.spec import Source
from milepost.format.wire import damaged

MAGIC = b"crc_num"
_DIGITS = 10
NBYTES = len(MAGIC) + _DIGITS

BLOCK_NBYTES = 4 << 20
"""Bytes that are read and summed up at a time."""


def is_trailer(tail: bytes) -> bool:
    """Whether the last `NBYTES` bytes of a file are a trailer."""
    return len(tail) == NBYTES and tail.startswith(MAGIC)


def end_of(source: Source) -> int:
    """Return where the file ends without a trailer: its size, where there is none."""
    tail = source.read(source.nbytes - NBYTES, NBYTES) if source.nbytes > NBYTES else b""
    return source.nbytes - NBYTES if is_trailer(tail) else source.nbytes


def check(source: Source, where: str) -> None:
    """Compare the trailer, where there is one, with all that is before it, which reads the whole file.

    Raises:
        DamagedCheckpointError: They do not fit each other.
    """
    end, crc = end_of(source), 0
    if end == source.nbytes:
        return
    expected = int.from_bytes(source.read(end + len(MAGIC), _DIGITS), "big")
    for offset in range(0, end, BLOCK_NBYTES):
        crc = zlib.crc32(source.read(offset, min(BLOCK_NBYTES, end - offset)), crc)
    if crc != expected:
        raise damaged(where, end, f"contents with the CRC-32 {crc:08x}", f"{expected:08x}, as saved")


class Trailer:
    """Puts the trailer behind one stream; a `Filter`."""

    def __init__(self) -> None:
        self._crc = 0

    def nbytes_of(self, nbytes: int) -> int:
        """How many bytes `nbytes` become."""
        return nbytes + NBYTES

    def take(self, chunk: memoryview | bytes) -> Iterator[memoryview | bytes]:
        """Take in the next bytes, and give them on."""
        self._crc = zlib.crc32(chunk, self._crc)
        yield chunk

    def finish(self) -> Iterator[bytes]:
        """Give the trailer."""
        yield MAGIC + self._crc.to_bytes(_DIGITS, "big")
