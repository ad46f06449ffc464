"""`milepost prune`, and the function of that name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from milepost import prune, save_checkpoint
from milepost.errors import SaveError, SettingTypeError
from milepost.policy.keep import KeepLast, KeepOnePer
from milepost.pruning import _expired
from milepost.storage.local import LocalStorage

ALL = {"net-1_2.ckpt", "net-2_2.ckpt", "net-3_2.ckpt", "net-4_2.ckpt", "net_2-1_2.ckpt"}


def checkpoints(runs):
    return {path.name for path in runs.glob("*.ckpt")} - {"net-best.ckpt", "net_2-best.ckpt"}


def test_nothing_is_removed_without_yes(milepost, runs):
    """What would go is told, in the JSON too."""
    before = {path: path.read_bytes() for path in runs.iterdir()}
    done = milepost("prune", runs, "--keep-last", 1)
    assert done.code == 0
    assert "would remove  net-1_2.ckpt" in done.out
    assert done.out.splitlines()[-1].startswith("2 of 5 checkpoints would be removed")
    facts = milepost("prune", runs, "--keep-last", 1, "--json").json
    assert facts["is_dry_run"]
    assert [each["name"] for each in facts["runs"][0]["expired"]] == ["net-1_2.ckpt", "net-3_2.ckpt"]
    assert {path: path.read_bytes() for path in runs.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--keep-last", 1], {"net-1_2.ckpt", "net-3_2.ckpt"}),
        (["--keep-last", 3], {"net-1_2.ckpt"}),
        (["--keep-every", 4], {"net-1_2.ckpt", "net-3_2.ckpt"}),
        (["--monitor", "accuracy", "--keep-best", 2], {"net-1_2.ckpt"}),
        (["--monitor", "accuracy", "--mode", "min"], {"net-3_2.ckpt"}),
        (["--monitor", "accuracy", "--keep-last", 2], {"net-1_2.ckpt"}),
        (["--keep-last", 100], set()),
    ],
)
def test_what_no_policy_keeps_goes(milepost, runs, options, gone):
    """Each run by itself; the newest and the best of each stay whatever is asked for."""
    done = milepost("prune", runs, *options, "--yes", "--json")
    assert done.code == 0
    assert checkpoints(runs) == ALL - gone
    assert {each["name"] for run in done.json["runs"] for each in run["expired"]} == gone
    assert milepost("verify", runs).code == 0


def test_what_milepost_did_not_write_stays(milepost, runs):
    """A file that is only called like a checkpoint is nobody's to remove; nor is one that cannot be read."""
    save_checkpoint({"w": 1.0}, runs / "net-1_1.ckpt")
    (runs / "net-1_3.ckpt").write_bytes(b"not a checkpoint")
    (runs / "notes.txt").write_text("mine")
    others = {path.name for path in runs.iterdir()} - ALL
    milepost("prune", runs, "--keep-last", 1, "--yes")
    assert {path.name for path in runs.iterdir()} == others | ALL - {"net-1_2.ckpt", "net-3_2.ckpt"}


def test_a_run_that_a_living_process_has_is_left_alone(milepost, runs):
    """It is told who has it; the other runs are pruned."""
    code = "import sys; from milepost.storage.local import LocalStorage\n"
    code += "lock = LocalStorage(sys.argv[1]).lock('net'); print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(runs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        for options in (["--yes"], []):
            done = milepost("prune", runs, "--keep-last", 1, "--json", *options)
            first, second = done.json["runs"]
            assert f"process {child.pid} " in first["held_by"]
            assert (first["expired"], second["held_by"]) == ([], None)
        assert f"nothing is removed: process {child.pid} " in milepost("prune", runs, "--keep-last", 1).out
        assert checkpoints(runs) == ALL
    finally:
        child.communicate("")
        child.wait()
    assert milepost("prune", runs, "--keep-last", 1, "--yes").code == 0
    assert checkpoints(runs) == ALL - {"net-1_2.ckpt", "net-3_2.ckpt"}


def test_without_a_policy_nothing_is_done(milepost, runs):
    """To keep nothing is not a default."""
    done = milepost("prune", runs, "--yes")
    assert (done.code, checkpoints(runs)) == (2, ALL)
    assert "--keep-last" in done.err


@pytest.mark.parametrize("options", [["--keep-last", 0], ["--keep-last", -1], ["--monitor", ""], ["--keep-every", "x"]])
def test_a_policy_that_cannot_be_meant_is_refused(milepost, runs, options):
    """In one line, before anything is looked at."""
    done = milepost("prune", runs, *options, "--yes")
    assert (done.code, len(done.err.splitlines()), checkpoints(runs)) == (2, 1, ALL)


def test_a_file_that_cannot_be_removed_is_told(milepost, runs, monkeypatch):
    """Exit code 2; the others are removed."""
    remove = LocalStorage.remove

    def refuse(storage, name):
        if name == "net-1_2.ckpt":
            raise SaveError(storage.where(name), found="no right to", expected="one", remedy="Ask for it.")
        remove(storage, name)

    monkeypatch.setattr(LocalStorage, "remove", refuse)
    done = milepost("prune", runs, "--keep-last", 1, "--yes")
    assert (done.code, checkpoints(runs)) == (2, ALL - {"net-3_2.ckpt"})
    assert "not removed" in done.out
    assert done.out.splitlines()[-1].startswith("1 of 5 checkpoints removed")
    assert milepost("prune", runs, "--keep-last", 1, "--yes", "--json").json["runs"][0]["failures"]


def test_one_per_minutes_leaves_what_a_training_would_have_left(trained):
    """The last of each window, not only of the newest's: the policy is asked after each save."""
    from dataclasses import replace

    from milepost.catalog.records import records

    one = records(LocalStorage(trained), "net", 1)
    times = [0, 20, 40, 60, 80, 100, 120]
    names = [replace(one[0].name, epoch=epoch) for epoch in range(len(times))]
    saved = [replace(one[0], name=name, created=time) for name, time in zip(names, times, strict=True)]
    left = [record.created for record in saved if record not in _expired(KeepOnePer(1), saved, None)]
    assert left == [40, 100, 120]


def test_it_is_a_function_too(runs):
    """A dry run unless it is told otherwise."""
    assert [record.name.text for run in prune(runs, KeepLast(1)) for record in run.expired] == [
        "net-1_2.ckpt", "net-3_2.ckpt",
    ]  # fmt: skip
    assert checkpoints(runs) == ALL
    prune(runs, KeepLast(1), is_dry_run=False)
    assert checkpoints(runs) == ALL - {"net-1_2.ckpt", "net-3_2.ckpt"}
    with pytest.raises(SettingTypeError, match="a policy"):
        prune(runs, 3)


def test_a_metric_that_nobody_measured_removes_nothing(milepost, runs):
    """A slip of the pen would else let all go but the newest."""
    before = checkpoints(runs)
    done = milepost("prune", runs, "--monitor", "acuracy", "--yes")
    assert done.code == 2
    assert "'acuracy', which no checkpoint has" in done.err
    assert "accuracy" in done.err.partition("expected")[2]
    assert checkpoints(runs) == before
