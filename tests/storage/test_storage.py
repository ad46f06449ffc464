"""One behaviour suite over every implementation of the storage seam."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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


def test_a_second_name_is_the_same_file_until_one_of_them_changes(storage):
    """Both read alike; replacing or removing one leaves the other as it is."""
    write(storage, "a.ckpt", b"good")
    storage.link("a.ckpt", "best.ckpt")
    assert (read(storage, "best.ckpt"), names(storage)) == (b"good", ["a.ckpt", "best.ckpt"])
    write(storage, "a.ckpt", b"replaced")
    assert read(storage, "best.ckpt") == b"good"
    storage.link("a.ckpt", "best.ckpt")
    storage.remove("a.ckpt")
    assert (read(storage, "best.ckpt"), names(storage)) == (b"replaced", ["best.ckpt"])


def test_a_second_name_is_replaced_and_readers_of_it_are_not_disturbed(storage):
    """What had the name stays as it is for who has it open."""
    for name in ("a.ckpt", "b.ckpt", "best.ckpt"):
        write(storage, name, name.encode())
    with storage.open("best.ckpt") as file:
        storage.link("a.ckpt", "best.ckpt")
        storage.link("b.ckpt", "best.ckpt")
        assert file.read(0, file.nbytes) == b"best.ckpt"
    assert [read(storage, name) for name in names(storage)] == [b"a.ckpt", b"b.ckpt", b"b.ckpt"]


@pytest.mark.parametrize("name", ["best.ckpt", "a.ckpt"])
def test_a_name_that_is_there_already_is_done(storage, name):
    """Again and again, and onto itself; nothing is left behind."""
    write(storage, "a.ckpt", b"x")
    for _ in range(3):
        storage.link("a.ckpt", name)
    assert names(storage) == sorted({"a.ckpt", name})
    assert read(storage, name) == b"x"


def test_nothing_is_no_file_to_name(storage):
    """And what had the name is untouched."""
    write(storage, "best.ckpt", b"x")
    for source in ("a.ckpt", ".hidden"):
        with pytest.raises(CheckpointNotFoundError, match=source):
            storage.link(source, "best.ckpt")
    assert (names(storage), read(storage, "best.ckpt")) == (["best.ckpt"], b"x")


def test_reading_past_the_end_is_damage(storage):
    """A reader that was promised bytes gets them or an error."""
    write(storage, "a.ckpt", b"abc")
    with storage.open("a.ckpt") as file, pytest.raises(DamagedCheckpointError, match=r"a\.ckpt.*byte 3"):
        file.read(1, 3)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\\b", "a\0b"])
def test_a_name_that_leaves_the_folder_is_refused(storage, name):
    """Every verb takes plain names only."""
    write(storage, "a.ckpt", b"x")
    verbs = [storage.open, storage.remove, storage.lock, lambda name: storage.create(name, 0)]
    verbs += [lambda name: storage.link(name, "b.ckpt"), lambda name: storage.link("a.ckpt", name)]
    for verb in verbs:
        with pytest.raises(SettingError, match="plain name"):
            verb(name)


def test_a_lock_is_exclusive_per_name_and_reusable(storage):
    """One holder at a time, in this process too; another name is another lock; what was released can be had again."""
    lock = storage.lock("a")
    assert lock is not None
    assert storage.lock("a") is None
    with storage.lock("b"):
        assert storage.lock("b") is None
    with storage.lock("b"):
        pass
    lock.release()
    with storage.lock("a"):
        assert storage.lock("a") is None


def test_a_lock_is_released_once(storage):
    """A second release does not take the name from the next holder."""
    first = storage.lock("a")
    first.release()
    second = storage.lock("a")
    first.release()
    assert storage.lock("a") is None
    second.release()


def test_a_lock_is_no_file_and_no_file_is_in_its_way(storage):
    """Locks and files have names of their own."""
    write(storage, "a", b"x")
    with storage.lock("a"):
        assert names(storage) == ["a"]
        assert read(storage, "a") == b"x"
        write(storage, "a", b"new")
        assert storage.lock("a") is None
    assert read(storage, "a") == b"new"


def test_of_threads_that_claim_one_name_one_has_it(storage):
    """Of eight at once, exactly one."""
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: barrier.wait() is not None and storage.lock("a"), range(8)))
    (lock,) = [each for each in claimed if each is not None]
    lock.release()


def test_the_holder_of_a_lock_is_told(storage):
    """For the message of who cannot have it."""
    with storage.lock("a"):
        assert storage.holder("a").startswith("this process")
        assert storage.lock("a") is None


def test_a_sweep_leaves_what_this_process_works_on(storage):
    """Committed files, unfinished ones and locks of the living stay; an absent folder has nothing to sweep."""
    assert storage.sweep(lambda name: True) == []
    write(storage, "a.ckpt", b"x")
    with storage.lock("a"), storage.create("b.ckpt", 1) as file:
        file.write(b"y")
        assert storage.sweep(lambda name: True) == []
        assert storage.lock("a") is None
        file.commit()
    assert names(storage) == ["a.ckpt", "b.ckpt"]
