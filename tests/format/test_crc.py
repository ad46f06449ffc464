"""MindSpore's CRC trailer behind files of Milepost's."""

from __future__ import annotations

import zlib

import pytest

from milepost.errors import DamagedCheckpointError, MilepostError
from milepost.format import containers, crc
from milepost.format.checksum import Checksum
from milepost.format.spec import Filtered


@pytest.fixture
def plain(array, write):
    return write(
        [array("w", "float32", [2], bytes(range(8))), array("v", "int8", [3], b"abc")], {"epoch": 1}, {"t": "w"}
    )


@pytest.fixture
def trailed(plain):
    return plain + b"crc_num" + zlib.crc32(plain).to_bytes(10, "big")


def test_a_trailer_is_what_mindspore_writes(plain, trailed):
    """The magic, and the CRC-32 of everything before it."""

    class Layout:
        nbytes = len(plain)

        def chunks(self, _=None):
            yield plain[:30]
            yield memoryview(plain)[30:]

        def release(self):
            pass

    layout = Filtered(Layout(), crc.Trailer())
    assert b"".join(layout.chunks()) == trailed
    assert layout.nbytes == len(trailed)


def test_behind_a_trailer_the_footer_is_found(plain, trailed, read):
    """The file reads as without it."""
    bare, index = read(plain), read(trailed)
    assert (index.entries, index.aliases, index.metadata) == (bare.entries, bare.aliases, bare.metadata)
    assert index.nbytes == len(trailed)


def test_every_flipped_bit_is_found_by_opening_or_by_verifying(trailed, read, source_of, content_of):
    """Those of the trailer and those between the contents too."""
    sound = read(trailed)
    containers.verify_framing(source_of(trailed), sound, "x")
    for position in range(8 * len(trailed)):
        flipped = bytearray(trailed)
        flipped[position // 8] ^= 1 << position % 8
        try:
            index = read(bytes(flipped))
            containers.verify_framing(source_of(bytes(flipped)), index, "x")
        except MilepostError:
            continue
        assert any(Checksum.of(content_of(flipped, entry)) != entry.checksum for entry in index.entries.values()), (
            f"bit {position}"
        )


def test_a_trailer_cut_short_is_damage(trailed, plain, read):
    """Whole or not at all."""
    for length in range(len(plain) + 1, len(trailed)):
        with pytest.raises(DamagedCheckpointError):
            read(trailed[:length])
