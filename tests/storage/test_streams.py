"""Bytes past the page cache and through it: the same file, whatever the sizes, and whatever the system refuses."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.engine.reader import Reader
from milepost.engine.writer import write
from milepost.errors import SaveError
from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec
from milepost.storage import local, streams, system
from milepost.storage.local import LocalStorage

BUFFER = 8192
SIZES = [0, 1, 4095, 4096, 4097, BUFFER - 1, BUFFER, BUFFER + 1, 5 * BUFFER, 5 * BUFFER + 4095]


def refused(reason: int):
    """What stands in for a call that the system refuses."""

    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    return refuse


class Unstartable(threading.Thread):
    """A thread of an interpreter that is about to end."""

    def start(self) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")


@pytest.fixture
def direct(monkeypatch) -> pytest.MonkeyPatch:
    """Every file goes past the page cache, in small buffers."""
    monkeypatch.setattr(local, "DIRECT_NBYTES", 0)
    monkeypatch.setattr(local, "RESERVE_NBYTES", 0)
    monkeypatch.setattr(streams, "BUFFER_NBYTES", BUFFER)
    monkeypatch.setattr(streams, "IN_PLACE_NBYTES", BUFFER)
    return monkeypatch


def refuse_the_flag(patch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def refuse(descriptor, command, *flags):
        if command == fcntl.F_SETFL and flags[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "planned")
        return real(descriptor, command, *flags)

    patch.setattr(fcntl, "fcntl", refuse)


def refuse_direct_writes(patch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def refuse(descriptor, content, offset):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "planned")
        return real(descriptor, content, offset)

    patch.setattr(os, "pwrite", refuse)


def refuse_what_lies_in_place(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "pwritev", refused(errno.EINVAL))


def refuse_what_lies_in_place_once_begun(patch: pytest.MonkeyPatch) -> None:
    real, written = os.pwritev, []

    def refuse(descriptor, pieces, offset):
        written.append(offset)
        if len(written) > 1:
            raise OSError(errno.EFAULT, "planned")
        return real(descriptor, [piece[: len(piece) // 2] for piece in pieces[:1]], offset)

    patch.setattr(os, "pwritev", refuse)


def refuse_the_second_direct_write(patch: pytest.MonkeyPatch) -> None:
    real, written = os.pwrite, []

    def refuse(descriptor, content, offset):
        written.append(offset)
        if len(written) > 1 and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "planned")
        return real(descriptor, content, offset)

    patch.setattr(os, "pwrite", refuse)


WAYS = {
    "as it comes": lambda patch: None,
    "the flag is refused": refuse_the_flag,
    "direct writes are refused": refuse_direct_writes,
    "the second direct write is refused": refuse_the_second_direct_write,
    "nothing is taken from where it lies": refuse_what_lies_in_place,
    "half of a piece is taken from where it lies": refuse_what_lies_in_place_once_begun,
    "nothing can be reserved": lambda patch: patch.setattr(system, "_call", lambda *_: errno.EOPNOTSUPP),
    "no thread can be had": lambda patch: patch.setattr(threading, "Thread", Unstartable),
    "half of each write": lambda patch: patch.setattr(
        os, "pwrite", lambda fd, content, offset, real=os.pwrite: real(fd, content[: -(-len(content) // 2)], offset)
    ),
}


def put(storage: LocalStorage, content: bytes, cuts: list[int], **settings: bool) -> bytes:
    """Write a content in pieces, each changed as soon as it was taken; return what the file holds."""
    with storage.create("a.ckpt", len(content), **settings) as file:
        for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            piece = bytearray(content[begin:end])
            file.write(memoryview(piece))
            piece[:] = bytes(len(piece))
        assert file.commit().nbytes == len(content)
    return (storage.directory / "a.ckpt").read_bytes()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("nbytes", SIZES)
def test_a_file_of_any_size_is_what_was_written(tmp_path, direct, way, nbytes):
    """In one piece and in many, with direct writes, and where they are refused at any point."""
    WAYS[way](direct)
    content = os.urandom(nbytes)
    cuts = sorted({min(nbytes, cut) for cut in (1, 64, 4096, BUFFER, 2 * BUFFER + 7)})
    for is_background in (False, True):
        assert put(LocalStorage(tmp_path), content, [], is_background=is_background) == content
        assert put(LocalStorage(tmp_path), content, cuts, is_background=is_background) == content
    assert os.listdir(tmp_path) == ["a.ckpt"]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40_000), max_size=8),
    slice_nbytes=st.sampled_from([1, 4096, 10_000, 1 << 20]),
    way=st.sampled_from(["as it comes", "the flag is refused", "direct writes are refused"]),
    large=st.sampled_from([1, 4096, 256 << 10]),
    is_background=st.booleans(),
)
def test_arrays_of_any_sizes_come_back_from_a_disk(tmp_path_factory, sizes, slice_nbytes, way, large, is_background):
    """Large and small ones, cut into slices or not; the index and every checksum are right."""
    contents = {f"w{place}": os.urandom(nbytes) for place, nbytes in enumerate(sizes)}
    arrays = [
        Array(ArraySpec(name, "uint8", (len(content),)), "parameter", lambda content=content: memoryview(content))
        for name, content in contents.items()
    ]
    slice_nbytes = max(slice_nbytes, max(sizes, default=1) // 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "DIRECT_NBYTES", 0)
        patch.setattr(local, "RESERVE_NBYTES", 0)
        patch.setattr(streams, "BUFFER_NBYTES", BUFFER)
        patch.setattr(streams, "IN_PLACE_NBYTES", BUFFER)
        patch.setattr("milepost.format.ckpt_plan.LARGE_NBYTES", large)
        WAYS[way](patch)
        storage = LocalStorage(tmp_path_factory.mktemp("disk"))
        write(storage, "a.ckpt", plan(arrays, {}, slice_nbytes=slice_nbytes), is_background=is_background)
    with Reader(storage, "a.ckpt") as reader:
        reader.verify()
        assert {name: bytes(reader.read(name)) for name in reader.index.entries} == contents


def memory_at(place: int, nbytes: int) -> memoryview:
    """Random bytes in memory, so many behind a multiple of the size of a page."""
    memory = memoryview(mmap.mmap(-1, place + nbytes))[place:]
    memory[:] = os.urandom(nbytes)
    return memory


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", [0, 4, 64, 448, 1024, 4095])
@pytest.mark.parametrize("nbytes", [BUFFER, BUFFER + 1, 5 * BUFFER + 4095])
def test_a_large_content_is_what_was_written_wherever_it_lies(tmp_path, direct, way, place, nbytes):
    """In memory, and in the file behind others; it may change as soon as it was taken."""
    WAYS[way](direct)
    contents = [memory_at(place, nbytes) for _ in range(3)]
    before, between = os.urandom(64), os.urandom(-nbytes % 512)
    expected = before + between.join([bytes(content) for content in contents])
    with LocalStorage(tmp_path).create("a.ckpt", len(expected), is_background=True) as file:
        file.write(before)
        for number, content in enumerate(contents):
            if number:
                file.write(between)
            file.write(content)
            content[:] = bytes(nbytes)
        file.commit()
    assert (tmp_path / "a.ckpt").read_bytes() == expected


def needs_direct_writes(folder: Path) -> None:
    """Skip the test where the file system has no direct writes: then there is nothing to be seen."""
    with open(folder / "probe", "wb") as probe:
        try:
            streams.bypass(probe.fileno(), is_on=True)
        except OSError:
            # tmpfs before Linux 6.6, and some others; what is written there is tested by all tests around.
            pytest.skip("this file system has no direct writes")
    (folder / "probe").unlink()


@pytest.mark.parametrize("alignment", [4, 512])
def test_what_lies_in_memory_as_in_the_file_is_not_copied(tmp_path, direct, alignment):
    """In the background; but for its edges, which share a page of the file with others."""
    needs_direct_writes(tmp_path)
    taken = []

    def take(descriptor, pieces, offset):
        first, inner = pieces
        address = streams._address(inner)
        if address % alignment or offset % 512 or len(inner) % 512:
            raise OSError(errno.EINVAL, "as a device would")
        taken.append((address, len(inner)))
        os.lseek(descriptor, 0, os.SEEK_SET)  # the file system of the test need not be such a device
        streams.bypass(descriptor, is_on=False)
        done = sum(os.pwrite(descriptor, piece, at) for piece, at in [(first, offset), (inner, offset + len(first))])
        streams.bypass(descriptor, is_on=True)
        return done

    direct.setattr(os, "pwritev", take)
    content, aside = memory_at(64, 10 * BUFFER), memory_at(68, 10 * BUFFER)
    with LocalStorage(tmp_path).create("a.ckpt", 64 + 20 * BUFFER, is_background=True) as file:
        for piece in (bytes(64), aside, content):  # what lies right for one device only comes first
            file.write(piece)
        file.commit()
    assert (tmp_path / "a.ckpt").read_bytes() == bytes(64) + aside + content
    inside = [(streams._address(piece) + 4096 - 64, 10 * BUFFER - 4096) for piece in (aside, content)]
    assert taken == (inside if alignment == 4 else inside[1:])


def test_a_save_that_is_waited_for_copies_all_of_it(tmp_path, direct):
    """The next buffer is filled while one is on its way, which takes less time than to write from where it lies."""
    needs_direct_writes(tmp_path)
    direct.setattr(os, "pwritev", refused(errno.EIO))
    content = memory_at(64, 10 * BUFFER)
    with LocalStorage(tmp_path).create("a.ckpt", 64 + len(content)) as file:
        file.write(bytes(64))
        file.write(content)
        file.commit()
    assert (tmp_path / "a.ckpt").read_bytes() == bytes(64) + content


def test_buffers_need_no_huge_pages(tmp_path, direct):
    """A kernel without them refuses the advice, and the memory is as good."""
    refusals = []

    class Memory(mmap.mmap):
        def madvise(self, *_: object) -> None:
            refusals.append(OSError(errno.EINVAL, "planned"))
            raise refusals[0]

    direct.setattr(mmap, "mmap", Memory)
    needs_direct_writes(tmp_path)
    with LocalStorage(tmp_path).create("a.ckpt", 3) as file:
        assert isinstance(file._stream, streams.PastCache)
        file.write(b"new")
        file.commit()
    assert (tmp_path / "a.ckpt").read_bytes() == b"new"
    assert refusals


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO])
def test_a_content_that_cannot_be_taken_from_where_it_lies_is_told(tmp_path, direct, reason):
    """The disk is full, or broken: that has nothing to do with how memory lies."""
    needs_direct_writes(tmp_path)
    storage = LocalStorage(tmp_path)
    put(storage, b"old", [])
    direct.setattr(os, "pwritev", refused(reason))
    with pytest.raises(SaveError) as caught, storage.create("a.ckpt", 5 * BUFFER, is_background=True) as file:
        file.write(memory_at(0, 5 * BUFFER))
    assert caught.value.errno == reason
    assert (tmp_path / "a.ckpt").read_bytes() == b"old"


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_direct_write_that_fails_is_told_and_leaves_nothing(tmp_path, direct, reason, number):
    """Although it was another thread that wrote: with its errno, and what had the name is as before."""
    storage = LocalStorage(tmp_path)
    put(storage, b"old", [])
    real, written, threads = os.pwrite, [], threading.active_count()

    def fail(descriptor, content, offset):
        written.append(offset)
        if len(written) == number:
            raise OSError(reason, os.strerror(reason))
        return real(descriptor, content, offset)

    direct.setattr(os, "pwrite", fail)
    with pytest.raises(SaveError) as caught:
        put(storage, bytes(5 * BUFFER + 1), [*range(1000, 5 * BUFFER, 1000)])
    assert caught.value.errno == reason
    assert os.listdir(tmp_path) == ["a.ckpt"]
    assert (tmp_path / "a.ckpt").read_bytes() == b"old"
    assert threading.active_count() == threads


def test_a_disk_without_room_says_so_before_anything_is_written(tmp_path, direct):
    """The room is taken first."""
    direct.setattr(system, "_call", lambda name, *_: errno.ENOSPC)
    with pytest.raises(SaveError, match="Free some space") as caught:
        LocalStorage(tmp_path).create("a.ckpt", 100)
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_a_block_that_is_left_ends_the_threads(tmp_path, direct):
    """Nothing waits for a file that nobody wants any more."""
    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError), LocalStorage(tmp_path).create("a.ckpt", 10 * BUFFER) as file:
        file.write(bytes(3 * BUFFER))
        assert threading.active_count() == threads + streams.THREADS
        raise ZeroDivisionError
    assert threading.active_count() == threads
    assert os.listdir(tmp_path) == []


def test_room_that_was_taken_and_not_used_is_given_back(tmp_path, direct):
    """A file is as long as what was written to it."""
    with LocalStorage(tmp_path).create("a.ckpt", 100_000) as file:
        file.write(b"hello")
        file.commit()
    assert (tmp_path / "a.ckpt").read_bytes() == b"hello"


def test_a_large_file_really_goes_past_the_page_cache(tmp_path, direct):
    """Seen by the flag of the descriptor when it is written, and gone for the rest of a buffer."""
    needs_direct_writes(tmp_path)
    seen, real = [], os.pwrite

    def look(descriptor, content, offset):
        seen.append((offset, bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)))
        return real(descriptor, content, offset)

    direct.setattr(os, "pwrite", look)
    put(LocalStorage(tmp_path), bytes(2 * BUFFER + 10), [5000, 10_000, 15_000])
    assert sorted(seen) == [(0, True), (BUFFER, True), (2 * BUFFER, False)]


def test_what_need_not_be_durable_waits_for_no_disk(tmp_path, direct):
    """No fsync and no direct write; still in one step, and still nothing half."""
    storage = LocalStorage(tmp_path / "new")
    direct.setattr(os, "fsync", refused(errno.EIO))
    direct.setattr(os, "pwrite", refused(errno.EIO))
    assert put(storage, b"x" * 3 * BUFFER, [5], is_durable=False) == b"x" * 3 * BUFFER
    with pytest.raises(ZeroDivisionError), storage.create("a.ckpt", 3, is_durable=False) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "new") == ["a.ckpt"]


def test_a_file_that_must_reach_the_disk_is_written_back_from_the_start(tmp_path, monkeypatch):
    """Each byte is asked for once, in order; the last ones are left to the fsync."""
    asked = []
    monkeypatch.setattr(streams, "WRITEBACK_NBYTES", 100)
    monkeypatch.setattr(system, "start_writing", lambda descriptor, offset, nbytes: asked.append((offset, nbytes)))
    put(LocalStorage(tmp_path), bytes(330), [60, 120, 300])
    assert asked == [(0, 120), (120, 180)]
    asked.clear()
    put(LocalStorage(tmp_path), bytes(330), [60, 120, 300], is_durable=False)
    assert asked == []
