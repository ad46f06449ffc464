"""Files that real MindSpore 2.10.0 wrote (tests/golden/generate.py) hold for us what they held for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milepost.errors import DamagedCheckpointError, DecryptionError
from milepost.format.text import decode_text

FILES = Path(__file__).parents[1] / "golden" / "files"
EXPECTED = json.loads((FILES / "expected.json").read_text())


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"encrypted.ckpt"}))
def test_a_file_by_mindspore_is_read_bit_for_bit(name, read, content_of):
    """Every dtype, scalars, arrays without elements, slices, texts, its CRC-32, and two optimizers."""
    written = (FILES / name).read_bytes()
    found = []
    for entry in read(written).entries.values():
        content = content_of(written, entry)
        value = decode_text(content) if entry.spec.dtype == "str" else content.hex()
        found.append([entry.spec.name, entry.spec.dtype, list(entry.spec.shape), value])
    assert found == EXPECTED[name]


def test_the_sliced_file_is_sliced(read):
    """Or the case above would prove less than it says."""
    assert len(read((FILES / "slices.ckpt").read_bytes()).entries["big"].extents) == 3


def test_an_encrypted_file_is_named_so(read):
    """Not called damaged, for there is something to do about it."""
    with pytest.raises(DecryptionError, match="encrypted"):
        read((FILES / "encrypted.ckpt").read_bytes())


def test_mindspores_crc_is_checked(read):
    """A changed byte in a content, which no length betrays, is found."""
    written = bytearray((FILES / "crc.ckpt").read_bytes())
    entry = read(bytes(written)).entries["float64"]
    written[entry.extents[0].offset] ^= 1
    with pytest.raises(DamagedCheckpointError, match="CRC-32"):
        read(bytes(written))
