"""What several processes may do to one folder, with real ones: who is killed gives way, who lives is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from milepost.errors import SaveError
from milepost.storage.local import LocalStorage

Start = Callable[[str], subprocess.Popen]


@pytest.fixture
def start(tmp_path) -> Iterator[Start]:
    """Start a process that runs a few lines with the `storage`."""
    processes = []

    def start(lines: str) -> subprocess.Popen:
        code = "import os, signal, sys, time\nfrom milepost.storage.local import LocalStorage\n"
        code += "signal.alarm(60)\n"  # a test that waits for it then fails instead of hanging
        code += f"storage = LocalStorage({str(tmp_path)!r})\n" + textwrap.dedent(lines)
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


HOLD = """
    lock = storage.lock("a")
    print(lock is not None)
    sys.stdin.read()
"""

WRITE = """
    file = storage.create("a-1_5.ckpt", 4)
    file.write(b"half")
    print(True)
    sys.stdin.readline()
    file.commit()
    print(True)
"""


def said(process: subprocess.Popen) -> str:
    return process.stdout.readline().strip()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_killed_holder_gives_way_at_once(start, tmp_path):
    """While it lives nobody else has the lock, and its name can be told; after SIGKILL the next one has it."""
    storage = LocalStorage(tmp_path)
    holder = start(HOLD)
    assert said(holder) == "True"
    assert storage.lock("a") is None
    assert storage.holder("a") == f"process {holder.pid} on {os.uname().nodename} (.a.lock)"
    kill(holder)
    assert names(tmp_path) == [".a.lock"]
    with storage.lock("a"):
        assert storage.holder("a") == "this process (.a.lock)"
    assert names(tmp_path) == []


def test_a_holder_that_looks_at_its_own_lock_keeps_it(start, tmp_path):
    """A process loses a POSIX lock when it closes any descriptor of the file, so a held file is not opened again."""
    holder = start("""
        lock = storage.lock("a")
        file = storage.create("a-1_5.ckpt", 4)
        storage.lock("a"), storage.holder("a"), storage.sweep(lambda name: True), storage.list()
        print(True)
        sys.stdin.read()
    """)
    assert said(holder) == "True"
    storage = LocalStorage(tmp_path)
    assert storage.lock("a") is None
    assert storage.sweep(lambda name: True) == []


def test_a_child_that_outlives_a_killed_holder_keeps_nothing(start, tmp_path):
    """The forked workers of a killed training linger; they have the descriptor, not the lock."""
    holder = start("""
        lock = storage.lock("a")
        child = os.fork()
        if not child:
            time.sleep(60)
        print(child)
        sys.stdin.read()
    """)
    child = int(said(holder))
    try:
        kill(holder)
        assert os.path.exists(f"/proc/{child}")
        with LocalStorage(tmp_path).lock("a") as lock:
            assert lock is not None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_neither_has_nor_releases_the_lock_of_its_parent(start, tmp_path):
    """Not by releasing, not by claiming, not by exiting."""
    holder = start("""
        lock = storage.lock("a")
        file = storage.create("a-1_5.ckpt", 4)
        child = os.fork()
        if not child:
            with lock, file:
                claimed = storage.lock("a")
                swept = storage.sweep(lambda name: True)
            lock.release()
            sys.exit(0 if claimed is None and swept == [] else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        sys.stdin.readline()
        file.commit()
        lock.release()
        print(True)
    """)
    assert said(holder) == "0"
    storage = LocalStorage(tmp_path)
    assert storage.lock("a") is None
    assert storage.sweep(lambda name: True) == []
    holder.stdin.write("\n")
    assert said(holder) == "True"
    assert names(tmp_path) == ["a-1_5.ckpt"]


def test_a_child_forked_by_one_thread_while_another_claims_can_claim(start):
    """The child inherits no mutex that nobody would ever give back."""
    process = start("""
        import threading
        def claim():
            while True:
                with storage.lock("a"): pass
        threading.Thread(target=claim, daemon=True).start()
        for _ in range(50):
            child = os.fork()
            if not child:
                with storage.lock("b"):
                    os._exit(0)
            os.waitpid(child, 0)
        print(True)
        os._exit(0)
    """)
    assert said(process) == "True"


def test_an_unfinished_file_goes_with_its_process_and_not_before(start, tmp_path):
    """A sweep leaves a living writer's alone, which then commits; a killed one's goes."""
    storage = LocalStorage(tmp_path)
    living, dead = start(WRITE), start(WRITE)
    assert said(living) == said(dead) == "True"
    kill(dead)
    (left,) = [name for name in names(tmp_path) if f".{dead.pid}-" in name]
    assert storage.sweep(lambda name: name == "another.ckpt") == []
    assert storage.sweep(lambda name: name == "a-1_5.ckpt") == [left]
    living.stdin.write("\n")
    assert said(living) == "True"
    assert names(tmp_path) == ["a-1_5.ckpt"]
    assert (tmp_path / "a-1_5.ckpt").read_bytes() == b"half"


def test_sweeps_never_disturb_those_who_start_and_write(start, tmp_path):
    """While one process sweeps without pause, another creates, commits and claims over and over."""
    sweeper = start("""
        print(True)
        while True:
            storage.sweep(lambda name: True)
    """)
    assert said(sweeper) == "True"
    storage = LocalStorage(tmp_path)
    for number in range(150):
        with storage.lock("a") as lock, storage.create("a-1_5.ckpt", 1) as file:
            assert lock is not None
            file.write(b"x")
            file.commit()
        assert names(tmp_path) == ["a-1_5.ckpt"], number


def test_of_processes_that_take_turns_never_two_have_the_lock(start, tmp_path):
    """Of three that claim and release without pause, the one inside is alone."""
    contenders = [
        start("""
            inside, turns = storage.directory / "inside", 0
            while turns < 200:
                with storage.lock("a") or open(os.devnull) as lock:
                    if hasattr(lock, "release"):
                        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                        os.unlink(inside)
                        turns += 1
            print(turns)
        """)
        for _ in range(3)
    ]
    assert [said(contender) for contender in contenders] == ["200"] * 3
    assert names(tmp_path) == []


def test_a_lock_on_a_file_that_lost_its_name_is_no_claim(monkeypatch, tmp_path):
    """Each release removes the file: who had opened it just before locks what the next one will not find."""
    path, lockf = tmp_path / ".a.lock", fcntl.lockf
    path.touch()

    def lockf_late(descriptor: int, command: int) -> None:
        monkeypatch.setattr(fcntl, "lockf", lockf)
        path.unlink()
        lockf(descriptor, command)

    monkeypatch.setattr(fcntl, "lockf", lockf_late)
    with LocalStorage(tmp_path).lock("a"):
        assert path.exists()


def test_lock_files_of_the_dead_are_swept_and_those_of_others_left(start, tmp_path):
    """A lock file of another program, empty or with words of its own, is not ours to judge."""
    holder, dead = start(HOLD), start(HOLD.replace('"a"', '"b"'))
    assert said(holder) == said(dead) == "True"
    kill(dead)
    (tmp_path / ".c.lock").write_text("12\n")
    (tmp_path / ".d.lock").touch()
    assert LocalStorage(tmp_path).sweep(lambda name: True) == [".b.lock"]
    assert names(tmp_path) == [".a.lock", ".c.lock", ".d.lock"]


@pytest.mark.parametrize(
    "name",
    [
        "a-1_5.ckpt.123-abcdef01.tmp",  # not hidden
        ".a-1_5.ckpt.123-abcdef01",
        ".a-1_5.ckpt.tmp",
        ".a-1_5.ckpt.x-abcdef01.tmp",
        ".other.ckpt.123-abcdef01.tmp",
    ],
)
def test_a_sweep_removes_no_file_of_another_making(tmp_path, name):
    """Only what is named as Milepost names it, for a file that is mine."""
    (tmp_path / name).touch()
    assert LocalStorage(tmp_path).sweep(lambda final: final == "a-1_5.ckpt") == []


def test_a_sweep_follows_no_link_and_trips_over_nothing(tmp_path):
    """A folder, a pipe and a link in the place of an unfinished file stay; what cannot be removed is no error."""
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / ".a.1-0.tmp").symlink_to(victim)
    (tmp_path / ".b.1-0.tmp").mkdir()
    os.mkfifo(tmp_path / ".c.1-0.tmp")
    assert LocalStorage(tmp_path).sweep(lambda name: True) == []
    assert LocalStorage(victim).sweep(lambda name: True) == []
    assert len(names(tmp_path)) == 4


def test_a_link_in_place_of_a_lock_file_is_refused(tmp_path):
    """Nothing is written through it."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".a.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(SaveError, match=r"\.a\.lock"):
        LocalStorage(tmp_path).lock("a")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_refused_with_the_reason(tmp_path):
    """A claim needs its folder, as a save does."""
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="file"):
        LocalStorage(tmp_path / "file").lock("a")


def test_one_folder_by_two_paths_has_one_lock(tmp_path):
    """A link to the folder is the folder: this process would lose the lock if it opened the file again."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with LocalStorage(tmp_path / "folder").lock("a"):
        assert LocalStorage(tmp_path / "link").lock("a") is None
        assert LocalStorage(tmp_path / "link").holder("a") == "this process (.a.lock)"


@pytest.fixture
def without_locks(monkeypatch) -> None:
    """No such file system is at hand; its refusal is that of NFS without a lock daemon."""

    def refuse(descriptor: int, command: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)


def test_without_locks_a_lock_file_is_its_creators(without_locks, start, tmp_path):
    """Until it is released, or its process is seen to be dead on this host; of another host nobody can tell."""
    storage = LocalStorage(tmp_path)
    with storage.lock("a"):
        assert storage.lock("a") is None
    assert names(tmp_path) == []

    holder = start(HOLD)
    assert said(holder) == "True"
    assert storage.lock("a") is None
    kill(holder)
    with storage.lock("a"):
        pass

    (tmp_path / ".a.lock").write_text("milepost: process 1 on another-host\n")
    assert storage.lock("a") is None
    assert storage.holder("a") == "process 1 on another-host (.a.lock)"


def test_without_locks_an_unfinished_file_is_swept_after_a_day(without_locks, start, tmp_path):
    """A living writer moves the time of its file; one that was not touched for a day is nobody's."""
    storage = LocalStorage(tmp_path)
    old, young = tmp_path / ".a.ckpt.1-0.tmp", tmp_path / ".a.ckpt.1-1.tmp"
    for path, age_hours in ((old, 25), (young, 23)):
        path.touch()
        os.utime(path, (time.time() - age_hours * 3600,) * 2)
    (tmp_path / ".a.lock").write_text("milepost: process 1 on another-host\n")
    os.utime(tmp_path / ".a.lock", (0, 0))
    with storage.create("a.ckpt", 1) as file:
        assert storage.sweep(lambda name: True) == [old.name]
        file.commit()
    assert names(tmp_path) == sorted([".a.lock", young.name, "a.ckpt"])


LINK = """
    file = storage.create("a-1_5.ckpt", 4)
    file.write(b"full")
    file.commit()
    os.replace = lambda *_: (print(True), sys.stdin.read())
    storage.link("a-1_5.ckpt", "a-best.ckpt")
"""


def test_a_second_name_that_a_killed_process_left_unfinished_is_swept(start, tmp_path):
    """The file keeps its first name and its content."""
    linker = start(LINK)
    assert said(linker) == "True"
    kill(linker)
    assert len(names(tmp_path)) == 2
    storage = LocalStorage(tmp_path)
    assert storage.sweep(lambda name: name == "a-1_5.ckpt") == []
    assert len(storage.sweep(lambda name: name == "a-best.ckpt")) == 1
    assert names(tmp_path) == ["a-1_5.ckpt"]
    assert (tmp_path / "a-1_5.ckpt").read_bytes() == b"full"
