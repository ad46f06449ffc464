"""`milepost ls`."""

from __future__ import annotations

import pytest

from milepost.catalog.folder import survey
from milepost.engine.writer import write
from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec
from milepost.storage.memory import MemoryStorage


def test_runs_are_told_apart_and_the_newest_and_the_best_are_marked(milepost, runs):
    """Each run with its checkpoints, oldest first, and what was measured, also after the save."""
    first, second = milepost("ls", runs, "--json").json["runs"]
    assert [each["name"] for each in first["checkpoints"]] == [f"net-{epoch}_2.ckpt" for epoch in (1, 2, 3, 4)]
    assert [each["metrics"]["accuracy"] for each in first["checkpoints"]] == [0.5, 0.9, 0.7, 0.6]
    assert [each["is_newest"] for each in first["checkpoints"]] == [False, False, False, True]
    assert [each["is_best"] for each in first["checkpoints"]] == [False, True, False, False]
    assert [each["global_step"] for each in first["checkpoints"]] == [2, 4, 6, 8]
    assert (second["prefix"], second["run"]) == ("net", 2)


def test_a_person_sees_the_same(milepost, runs):
    """One line for each checkpoint."""
    lines = milepost("ls", runs).out.splitlines()
    (best,) = [line for line in lines if "net-2_2.ckpt" in line]
    assert best.rstrip().endswith("best")
    assert "accuracy 0.9" in best
    assert any(line.startswith("net_2-1_2.ckpt") and line.rstrip().endswith("newest, best") for line in lines)
    assert any(line.startswith("net-best.ckpt") and "another name of the best" in line for line in lines)


def test_a_file_that_cannot_be_read_is_listed_as_such(milepost, runs):
    """And the others as ever."""
    (runs / "net-3_2.ckpt").write_bytes((runs / "net-3_2.ckpt").read_bytes()[:-100])
    done = milepost("ls", runs, "--json")
    (unreadable,) = done.json["runs"][0]["unreadable"]
    assert (done.code, unreadable["name"]) == (0, "net-3_2.ckpt")
    assert unreadable["error"]["kind"] == "DamagedCheckpointError"
    assert "net-3_2.ckpt  unreadable: " in milepost("ls", runs).out


def test_an_empty_folder_is_told(milepost, tmp_path):
    """There is nothing wrong with one."""
    done = milepost("ls", tmp_path)
    assert (done.code, done.out) == (0, f"{tmp_path}: no checkpoints here\n")
    for name in ("first", "second", "empty"):
        (tmp_path / name).mkdir()
    for name in ("first", "second"):
        (tmp_path / name / "a.ckpt").touch()
    assert milepost("ls", tmp_path).out == f"{tmp_path}: no checkpoints here, but in first, second\n"


def test_the_folder_is_the_current_one_by_default(milepost, runs, monkeypatch):
    """As ls has it."""
    monkeypatch.chdir(runs)
    assert "net-1_2.ckpt" in milepost("ls").out


@pytest.mark.parametrize(
    ("owner", "expected"),
    [({"prefix": "a", "ordinal": 2}, ("a", 2)), ({"prefix": "a_2", "ordinal": 1}, ("a_2", 1)), (None, ("a", 2))],
)
def test_the_file_says_whose_it_is(owner, expected):
    """A name that two prefixes can have made counts once; for the shorter, where the file does not say."""
    storage = MemoryStorage()
    array = Array(ArraySpec("w", "int8", (1,)), "parameter", lambda: memoryview(b"\x07"))
    facts = {"global_step": 5, **({"run": owner} if owner else {})}
    write(storage, "a_2-1_5.ckpt", plan([array], facts, {}))
    (run,) = survey(storage).runs
    assert (run.prefix, run.ordinal, len(run.records), run.best) == (*expected, 1, None)
