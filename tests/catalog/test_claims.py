"""Claims: whose run is whose, when several start or go on at once, and what is swept away of those that are dead."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from milepost.catalog.records import claim_next_run, claim_run, sweep
from milepost.errors import RunInUseError
from milepost.storage.base import Storage
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage

# A file as MindSpore writes it, and which says nothing about its run.
CHECKPOINT = b"\x0a\x10\x0a\x01w\x12\x0b\x08\x01\x12\x04Int8\x1a\x01\x07"


def save(storage: Storage, name: str) -> None:
    with storage.create(name, len(CHECKPOINT)) as file:
        file.write(CHECKPOINT)
        file.commit()


@pytest.fixture(params=["memory", "local"])
def storage(request, tmp_path) -> Storage:
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "runs")


def test_each_claim_is_of_another_run(storage):
    """Runs that have no file yet are taken too; one that was given back unused is free again, one with files is not."""
    (first, _), (second, unused), (third, done) = (claim_next_run(storage, "a") for _ in range(3))
    assert (first, second, third) == (1, 2, 3)
    unused.release()
    assert claim_next_run(storage, "a")[0] == 2
    save(storage, "a_3-1_1.ckpt")
    done.release()
    assert claim_next_run(storage, "a")[0] == 4


def test_a_claim_is_of_the_stem_whatever_the_prefix(storage):
    """The second run of ``a`` and the first of ``a_2`` have one name, so one of them."""
    assert claim_next_run(storage, "a_2")[0] == 1
    assert [claim_next_run(storage, "a")[0] for _ in range(2)] == [1, 3]
    assert claim_next_run(storage, "a_2")[0] == 2
    assert claim_next_run(storage, "b")[0] == 1


def test_a_claim_goes_past_names_that_are_taken(storage):
    """A living run in between changes nothing about the files after it."""
    for name in ("a_3-1_1.ckpt", "a_5-graph.meta"):
        save(storage, name)
    assert [claim_next_run(storage, "a")[0] for _ in range(2)] == [4, 6]


class Late:
    """A storage in which another process takes a run, saves and ends just before this one's claim."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._has_met = False

    def __getattr__(self, verb: str) -> object:
        return getattr(self._storage, verb)

    def lock(self, name: str) -> object:
        if not self._has_met:
            self._has_met = True
            with claim_next_run(self._storage, "a")[1]:
                save(self._storage, "a-1_1.ckpt")
        return self._storage.lock(name)


def test_a_run_that_filled_up_before_the_claim_is_not_taken(storage):
    """Between the look and the claim others may have come and gone; their files stay, their name is given back."""
    run, lock = claim_next_run(Late(storage), "a")
    assert run == 2
    assert storage.lock("a_2") is None
    lock.release()
    with storage.lock("a"):
        pass


def test_a_run_at_work_is_not_resumed(storage):
    """The error says who has it; after that one's release it can be had."""
    run, lock = claim_next_run(storage, "a")
    with pytest.raises(RunInUseError, match=r"a: found this process.* at work"):
        claim_run(storage, "a", run)
    lock.release()
    with claim_run(storage, "a", run):
        assert claim_next_run(storage, "a")[0] == 2


STARTS = 20

START = """
import sys
from pathlib import Path
from milepost.catalog.records import claim_next_run, claim_run
from milepost.errors import RunInUseError
from milepost.storage.local import LocalStorage

for folder in sorted(Path(sys.argv[1]).iterdir()):
    print(flush=True)
    sys.stdin.readline()
    print(claim_next_run(LocalStorage(folder), "a")[0], flush=True)
sys.stdin.readline()
try:
    claim_run(LocalStorage(folder), "a", 3)
except RunInUseError as error:
    print(error, flush=True)
sys.stdin.readline()
"""


def test_processes_that_start_at_once_claim_different_runs(tmp_path):
    """Two processes, a folder with two runs, twenty times; the runs are the next two, and the winner's is in use."""
    for number in range(STARTS):
        folder = tmp_path / f"{number:02}"
        folder.mkdir()
        (folder / "a-1_5.ckpt").write_bytes(CHECKPOINT)
        (folder / "a_2-1_5.ckpt").write_bytes(CHECKPOINT)
    command = [sys.executable, "-c", START, tmp_path]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as one,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as other,
    ):
        both = (one, other)

        def tell_both() -> list[str]:
            for process in both:
                process.stdin.write("\n")
            return [process.stdout.readline().strip() for process in both]

        for number in range(STARTS):
            assert [process.stdout.readline() for process in both] == ["\n", "\n"]
            claimed = tell_both()
            assert sorted(claimed) == ["3", "4"], number
        refused = tell_both()
        winner, loser = (0, 1) if claimed[0] == "3" else (1, 0)
        assert "this process" in refused[winner]
        assert f"found process {both[winner].pid} on {os.uname().nodename} (.a_3.lock) at work" in refused[loser]
        for process in both:
            process.kill()
    with claim_run(LocalStorage(tmp_path / "00"), "a", 3):
        pass


@pytest.mark.parametrize(
    ("final", "is_swept"),
    [
        *(("a-1_5.ckpt", True), ("a_7-1_5_breakpoint.ckpt", True), ("a_2-graph.meta", True), ("a-graph.meta", True)),
        *(("a-b-1_5.ckpt", False), ("b-graph.meta", False), ("a.ckpt", False), ("a_1-graph.meta", False)),
    ],
)
def test_a_sweep_is_of_all_runs_of_a_prefix_and_no_other(tmp_path, final, is_swept):
    """What a run left goes also if the next one is a new one; another training's is left to that."""
    (tmp_path / f".{final}.123-abcdef01.tmp").write_bytes(b"half")
    (tmp_path / "a-1_5.ckpt").write_bytes(b"whole")
    assert sweep(LocalStorage(tmp_path), "a") == [f".{final}.123-abcdef01.tmp"] * is_swept
    assert (tmp_path / "a-1_5.ckpt").read_bytes() == b"whole"
