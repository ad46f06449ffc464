"""One behaviour suite over every implementation of the storage seam."""

from __future__ import annotations

import pytest

from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError, SettingError
from milepost.storage.base import Storage
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path) -> Storage:
    return LocalStorage(tmp_path / "runs") if request.param == "local" else MemoryStorage()


def write(storage: Storage, name: str, content: bytes) -> None:
    with storage.create(name, len(content)) as file:
        file.write(content[:1])
        file.write(memoryview(content)[1:])
        file.commit()


def read(storage: Storage, name: str) -> bytes:
    with storage.open(name) as file:
        return file.read(0, file.nbytes)


def names(storage: Storage) -> list[str]:
    return sorted(stat.name for stat in storage.list())


def test_a_committed_file_reads_back(storage):
    """What was written is what is read, whole and in parts."""
    write(storage, "a.ckpt", b"hello")
    assert read(storage, "a.ckpt") == b"hello"
    with storage.open("a.ckpt") as file:
        buffer = bytearray(3)
        file.readinto(1, memoryview(buffer))
        assert (file.read(4, 1), bytes(buffer), file.nbytes) == (b"o", b"ell", 5)
    assert [(stat.name, stat.nbytes) for stat in storage.list()] == [("a.ckpt", 5)]


def test_a_folder_that_does_not_exist_yet_is_empty(storage):
    """Listing asks nothing of the folder."""
    assert storage.list() == []


def test_a_file_is_invisible_before_its_commit(storage):
    """Until commit nothing stands under the name."""
    with storage.create("a.ckpt", 1) as file:
        file.write(b"x")
        assert storage.list() == []
        with pytest.raises(CheckpointNotFoundError):
            storage.open("a.ckpt")
        file.commit()
    assert names(storage) == ["a.ckpt"]


def test_leaving_without_a_commit_keeps_the_old_file(storage):
    """An unfinished replacement costs nothing."""
    write(storage, "a.ckpt", b"old")
    with pytest.raises(ZeroDivisionError), storage.create("a.ckpt", 3) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert read(storage, "a.ckpt") == b"old"
    assert names(storage) == ["a.ckpt"]


def test_an_open_file_stays_what_it_was_when_replaced_or_removed(storage):
    """A reader is not disturbed by a writer."""
    write(storage, "a.ckpt", b"old")
    with storage.open("a.ckpt") as file:
        write(storage, "a.ckpt", b"newer")
        assert file.read(0, 3) == b"old"
        storage.remove("a.ckpt")
        assert file.read(0, file.nbytes) == b"old"


def test_removing_what_is_gone_is_no_error(storage):
    """Somebody else may have removed the file first."""
    write(storage, "a.ckpt", b"x")
    storage.remove("a.ckpt")
    storage.remove("a.ckpt")
    assert storage.list() == []


def test_reading_past_the_end_is_damage(storage):
    """A reader that was promised bytes gets them or an error."""
    write(storage, "a.ckpt", b"abc")
    with storage.open("a.ckpt") as file, pytest.raises(DamagedCheckpointError, match=r"a\.ckpt.*byte 3"):
        file.read(1, 3)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\\b", "a\0b"])
def test_a_name_that_leaves_the_folder_is_refused(storage, name):
    """Every verb takes plain names only."""
    for verb in (storage.open, storage.remove, lambda name: storage.create(name, 0)):
        with pytest.raises(SettingError, match="plain name"):
            verb(name)
