"""Plans into a storage and back: checked on the way, whole or not at all."""

from __future__ import annotations

import errno

import pytest

from milepost.engine import reader
from milepost.engine.reader import Reader
from milepost.engine.writer import write
from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError, NotACheckpointError, SaveError
from milepost.format import safetensors
from milepost.format.ckpt_plan import plan
from milepost.format.containers import Packaging
from milepost.format.spec import Array, ArraySpec
from milepost.storage.memory import MemoryStorage


def array(name: str, content: bytes) -> Array:
    return Array(ArraySpec(name, "uint8", (len(content),)), "parameter", lambda: memoryview(content))


CONTENTS = {"a": b"first", "b": b"", "c": bytes(range(256)) * 40}


@pytest.fixture
def storage():
    storage = MemoryStorage()
    write(storage, "x.ckpt", plan([array(*item) for item in CONTENTS.items()], {"epoch": 1}, {"tied": "a"}))
    return storage


def corrupt(storage: MemoryStorage, content: bytes) -> None:
    """Flip a bit of the first place where `content` stands."""
    with storage.open("x.ckpt") as file:
        raw = bytearray(file.read(0, file.nbytes))
    raw[raw.index(content)] ^= 0x10
    storage.put("x.ckpt", bytes(raw))


@pytest.mark.parametrize("block_nbytes", [1, 7, 4096, 1 << 20])
def test_contents_come_back_checked_whatever_the_block(storage, monkeypatch, block_nbytes):
    """Reading block by block gives the same bytes and the same checksum."""
    monkeypatch.setattr(reader, "BLOCK_NBYTES", block_nbytes)
    with Reader(storage, "x.ckpt") as opened:
        assert {name: bytes(opened.read(name)) for name in opened.index.entries} == CONTENTS
        assert bytes(opened.read("tied")) == b"first"
        opened.verify()


def test_only_the_damaged_entry_is_refused(storage):
    """Each entry has a checksum of its own; verifying asks all of them."""
    corrupt(storage, CONTENTS["c"])
    with Reader(storage, "x.ckpt") as opened:
        assert bytes(opened.read("a")) == b"first"
        with pytest.raises(DamagedCheckpointError, match="entry 'c'"):
            opened.read("c")
        with pytest.raises(DamagedCheckpointError, match="entry 'c'"):
            opened.verify()


MIXED = {f"{number}": bytes([number]) * nbytes for number, nbytes in enumerate([100, 5, 0, 70_000, 300, 60_000] * 20)}


@pytest.fixture
def mixed():
    """A file of small and large entries, one after the other."""
    storage = MemoryStorage()
    write(storage, "x.ckpt", plan([array(*item) for item in MIXED.items()], {}))
    return storage


@pytest.mark.parametrize("wanted", [list(MIXED), list(MIXED)[::-1], list(MIXED)[::7], ["0", "0", "1"], []])
def test_many_entries_are_read_at_once_into_their_places(mixed, wanted):
    """Whatever their sizes, and in whatever order they are asked for; all of them are checked."""
    places = [(name, bytearray(len(MIXED[name]))) for name in wanted]
    with Reader(mixed, "x.ckpt") as opened:
        opened.check(wanted)
        opened.read_into((name, memoryview(place)) for name, place in places)
    assert all(place == MIXED[name] for name, place in places)


@pytest.mark.parametrize("names", [["empty", "full"], ["full", "empty"]])
def test_an_empty_entry_may_stand_where_another_begins(names):
    """As safetensors lays them out; neither hides the other."""
    contents = {"full": ("float16", b"12"), "empty": ("float32", b"")}
    storage = MemoryStorage()
    arrays = [
        Array(ArraySpec(name, dtype, (len(content) // 2,)), "parameter", lambda content=content: memoryview(content))
        for name, (dtype, content) in contents.items()
    ]
    write(storage, "x.ckpt", safetensors.plan(arrays, {}))
    with Reader(storage, "x.ckpt") as opened:
        offsets = {entry.extents[0].offset for entry in opened.index.entries.values()}
        assert len(offsets) == 1
        buffers = {name: bytearray(len(contents[name][1])) for name in names}
        opened.check(names)
        opened.read_into((name, memoryview(buffers[name])) for name in names)
        opened.verify()
    assert buffers["full"] == b"12"


def test_an_encrypted_file_is_read_in_its_order(monkeypatch):
    """By one thread: each jump would decrypt a block again."""
    monkeypatch.setattr(reader, "BLOCK_NBYTES", 4096)
    storage = MemoryStorage()
    layout = Packaging("ckpt", b"0123456789abcdef", "AES-CBC").lay_out([array(*item) for item in MIXED.items()], {}, {})
    write(storage, "x.ckpt", layout)
    with Reader(storage, "x.ckpt", dec_key=b"0123456789abcdef", dec_mode="AES-CBC") as opened:
        offsets, file = [], opened._file
        read, readinto = file.read, file.readinto
        monkeypatch.setattr(file, "read", lambda offset, *rest: offsets.append(offset) or read(offset, *rest))
        monkeypatch.setattr(file, "readinto", lambda offset, *rest: offsets.append(offset) or readinto(offset, *rest))
        opened.check(list(MIXED)[::-1])
    assert len(offsets) > 100
    assert offsets == sorted(offsets)


@pytest.mark.parametrize("damaged", ["7", "63", "119"])
def test_a_damaged_entry_among_many_is_named(mixed, damaged):
    """It is found by who checks, by who reads, and by nobody else."""
    corrupt(mixed, MIXED[damaged])
    others = [name for name in MIXED if name != damaged]
    with Reader(mixed, "x.ckpt") as opened:
        opened.check(others)
        with pytest.raises(DamagedCheckpointError, match=f"entry '{damaged}'"):
            opened.check(MIXED)
        with pytest.raises(DamagedCheckpointError, match=f"entry '{damaged}'"):
            opened.read_into((name, memoryview(bytearray(len(MIXED[name])))) for name in MIXED)
        with pytest.raises(DamagedCheckpointError, match=f"entry '{damaged}'"):
            opened.verify()


def test_small_entries_are_read_together(mixed, monkeypatch):
    """As many reads as there are runs of them, not as there are entries; verifying tells of every byte all the same."""
    with Reader(mixed, "x.ckpt") as opened:
        reads = []
        real = opened._stored.read
        monkeypatch.setattr(opened._stored, "read", lambda *place: reads.append(place) or real(*place))
        small = [name for name in MIXED if len(MIXED[name]) < reader.SMALL_NBYTES]
        opened.check(small)
        assert len(reads) <= len(small) // 3
        told = []
        opened.verify(told.append)
    assert sum(told) == sum(map(len, MIXED.values()))


def test_what_is_no_checkpoint_is_refused_when_opened(storage):
    """Absent, or something else."""
    storage.put("y.ckpt", b"PK\x03\x04 a zip")
    with pytest.raises(NotACheckpointError, match="y.ckpt"):
        Reader(storage, "y.ckpt")
    with pytest.raises(CheckpointNotFoundError, match="z.ckpt"):
        Reader(storage, "z.ckpt")


@pytest.mark.parametrize("verb", ["create", "write", "commit"])
def test_a_refused_save_keeps_the_old_file(verb):
    """Whatever the system refuses, the file under the name is the old one."""
    failing = set()

    def fault(met, name):
        if met in failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    storage = MemoryStorage(fault)
    write(storage, "x.ckpt", plan([array("old", b"1")], {}))
    failing.add(verb)
    with pytest.raises(SaveError, match="No space left") as caught:
        write(storage, "x.ckpt", plan([array("new", b"2")], {}))
    assert caught.value.errno == errno.ENOSPC
    with Reader(storage, "x.ckpt") as opened:
        assert list(opened.index.entries) == ["old"]


def test_a_content_that_fails_to_come_leaves_nothing(storage):
    """An error in the middle of a save, from wherever, publishes nothing."""

    def fail():
        raise ZeroDivisionError

    broken = Array(ArraySpec("broken", "uint8", (3,)), "parameter", fail)
    with pytest.raises(ZeroDivisionError):
        write(storage, "y.ckpt", plan([array("a", b"1"), broken], {}))
    assert [stat.name for stat in storage.list()] == ["x.ckpt"]


@pytest.mark.parametrize("verb", [None, "create", "write", "commit"])
def test_each_array_is_released_once_when_its_bytes_were_taken_or_the_save_was_given_up(verb):
    """In turn, each before the next large one is asked for; and those that were never asked for, too."""
    told = []

    def refuse(met, name):
        if met == verb:
            raise OSError(errno.EIO, "Input/output error")

    def held(name: str, nbytes: int) -> Array:
        def content() -> memoryview:
            told.append(f"take {name}")
            return memoryview(bytes(nbytes))

        return Array(ArraySpec(name, "uint8", (nbytes,)), "parameter", content, lambda: told.append(f"release {name}"))

    sizes = {"a": 10, "b": 9 << 20, "c": 0, "d": 1 << 20}
    planned = plan([held(*item) for item in sizes.items()], {})
    assert told == []
    if verb is None:
        write(MemoryStorage(), "x.ckpt", planned)
        assert told == [f"{what} {name}" for name in sizes for what in ("take", "release")]
    else:
        with pytest.raises(SaveError):
            write(MemoryStorage(refuse), "x.ckpt", planned)
        assert sorted(line for line in told if line.startswith("release")) == [f"release {name}" for name in sizes]
    planned.release()
    assert len(told) == len(set(told))
