"""Checksums beside the writing: the same as in turn, and no failure is lost."""

from __future__ import annotations

import sys
import threading

import pytest
from tests.engine.test_engine import array

from milepost.engine import writer
from milepost.engine.beside import SMALL_NBYTES, Beside
from milepost.engine.reader import Reader
from milepost.engine.writer import write
from milepost.format.checksum import Checksum
from milepost.format.ckpt_plan import plan
from milepost.storage.memory import MemoryStorage

BLOCKS = [b"a", bytes(range(256)) * (SMALL_NBYTES // 128), b"b", b"", b"c" * SMALL_NBYTES]


@pytest.mark.parametrize("can_start", [True, False])
def test_blocks_of_any_size_are_taken_in_their_order(monkeypatch, can_start):
    """Small ones at once, unless a large one is before them; also where no thread can be had."""
    if not can_start:
        monkeypatch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("planned")))
    with Beside() as beside:
        checksums = [beside.checksum() for _ in range(3)]
        for checksum in checksums:
            for block in BLOCKS:
                checksum.update(block)
        assert {checksum.value() for checksum in checksums} == {Checksum.of(b"".join(BLOCKS))}


def test_the_thread_ends_with_the_block_and_keeps_nothing():
    """Else a content would be held for as long as nothing follows it."""
    before = threading.active_count()
    block = bytes(SMALL_NBYTES)
    held = sys.getrefcount(block)
    with Beside() as beside:
        checksum = beside.checksum()
        checksum.update(block)
        checksum.value()
        assert sys.getrefcount(block) <= held + 1  # it may not have come to letting go of its names yet
    assert threading.active_count() == before
    assert sys.getrefcount(block) == held


def test_a_failure_is_raised_where_the_value_is_asked_for():
    """A checksum that was not computed is not told."""
    with Beside() as beside:
        checksum = beside.checksum()
        checksum.update("x" * SMALL_NBYTES)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            checksum.value()


@pytest.mark.parametrize("is_background", [True, False])
def test_a_file_is_the_same_with_a_thread_and_without(monkeypatch, is_background):
    """The checksums in it, too."""
    monkeypatch.setattr(writer, "PARALLEL_NBYTES", 0)
    contents = {str(nbytes): bytes([nbytes % 251]) * nbytes for nbytes in (0, 5, 70_000, 300_000, 2_500_000)}
    planned = plan([array(*item) for item in contents.items()], {})
    storage = MemoryStorage()
    write(storage, "x.ckpt", planned, is_background=is_background)
    with storage.open("x.ckpt") as file:
        assert file.read(0, file.nbytes) == b"".join(plan([array(*item) for item in contents.items()], {}).chunks())
    with Reader(storage, "x.ckpt") as opened:
        opened.verify()
