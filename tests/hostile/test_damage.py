"""Every bit, every length, every block: damage to a file is told, or nothing of what was saved differs."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from milepost.checkpoint.loading import load_checkpoint
from milepost.errors import DamagedCheckpointError, NotACheckpointError
from milepost.parameters import Parameters
from milepost.state.tensors import bytes_of

FOUND = (DamagedCheckpointError, NotACheckpointError)
BLOCK = 64


def saved(parameters: Parameters) -> object:
    """All that a file gives: names in order, dtypes, shapes, bytes, kinds, metadata."""
    values = [
        (name, value) if isinstance(value, str) else (name, value.dtype, value.shape, bytes_of(value).tobytes())
        for name, value in parameters.items()
    ]
    state = [parameters.state(key) for key in parameters.metadata["state"] if key != "optimizer"]
    return values, [parameters.kind(name) for name in parameters], parameters.metadata, str(state)


@pytest.fixture
def file(tmp_path, small):
    """The small file, and what it gives."""
    path = tmp_path / "small.ckpt"
    path.write_bytes(small)
    with load_checkpoint(path) as parameters:
        return path, saved(parameters)


def attempt(action):
    try:
        return action()
    except FOUND as error:
        return error


def assert_found(path, sound, what) -> str:
    """By whom: the open, a read, or, where what was saved is unharmed, only by `verify`."""
    opened = attempt(lambda: load_checkpoint(path))
    if isinstance(opened, FOUND):
        assert path.name in str(opened), what
        return "open"
    with opened:
        with pytest.raises(DamagedCheckpointError, match=path.name):
            opened.verify()
        read = attempt(lambda: saved(opened))
    if isinstance(read, FOUND):
        assert path.name in str(read), what
        return "read"
    assert read == sound, what
    return "verify"


def test_every_flipped_bit_is_found_by_verify_and_by_a_load_unless_it_is_harmless(file, small):
    """Each bit of the file: `verify` raises, and a load raises or gives exactly what was saved."""
    path, sound = file
    found = Counter()
    with path.open("r+b", buffering=0) as raw:
        for place, byte in enumerate(small):
            for bit in range(8):
                os.pwrite(raw.fileno(), bytes([byte ^ 1 << bit]), place)
                found[assert_found(path, sound, f"bit {bit} of byte {place}")] += 1
            os.pwrite(raw.fileno(), bytes([byte]), place)
    with load_checkpoint(path) as parameters:
        parameters.verify()
        assert saved(parameters) == sound
    assert found.total() == 8 * len(small)
    assert min(found["open"], found["read"], found["verify"]) > 1000


def test_every_truncation_is_found(file, small):
    """Of every length, by the open already."""
    path, _ = file
    for length in range(len(small) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(FOUND, match=path.name):
            load_checkpoint(path)


def swap(content, first, second):
    blocks = [content[begin : begin + BLOCK] for begin in range(0, len(content), BLOCK)]
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


def test_every_block_that_is_lost_repeated_overwritten_or_swapped_is_found(file, small):
    """Blocks of 64 bytes, wherever the file is cut into them; two equal blocks may change places."""
    path, sound = file
    begins = range(0, len(small) - BLOCK + 1, 8)
    changed = {small[:begin] + small[begin + BLOCK :] for begin in begins}
    changed |= {small[: begin + BLOCK] + small[begin:] for begin in begins}
    changed |= {small[:begin] + bytes(BLOCK) + small[begin + BLOCK :] for begin in begins}
    numbers = range(len(small) // BLOCK)
    changed |= {swap(small, first, second) for first in numbers for second in numbers if first < second}
    changed -= {small}
    assert len(changed) > 2000
    for content in changed:
        path.write_bytes(content)
        assert_found(path, sound, content)


def test_a_file_that_verifies_is_the_one_that_was_saved_byte_for_byte(corpus, tmp_path):
    """Also what stands between the contents of a file whose contents are cut, or that has none."""
    for name in ("sliced.ckpt", "nothing.ckpt"):
        content = (corpus / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(content)
        with load_checkpoint(path) as parameters:
            parameters.verify()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
            with pytest.raises(FOUND), load_checkpoint(path) as parameters:
                parameters.verify()
