"""SIGKILL at any moment: what a save reported as done is there, whole, and the training goes on."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from tests.faults.training import KEEP, Report, do_one_thing, go_on_until_killed, judge, past_the_cache

MOMENTS = ("before", "halfway", "after")


class Kills:
    """Runs trainings in processes of their own, and judges what they leave."""

    def __init__(self, processes, folder: Path) -> None:
        self.processes = processes
        self.folder = folder / "run"
        self.report = folder / "report"
        self.slowest_seconds = 0.0

    def run(self, target, *arguments, kill_after=None) -> int:
        """Let one process work on the folder, and return how it ended.

        Args:
            target: What it does.
            arguments: With what.
            kill_after: When it is killed: so many things said, and so many seconds.
        """
        process = self.processes.Process(target=target, args=(self.folder, self.report, *arguments))
        said_before = self._size()
        process.start()
        if kill_after is not None:
            lines, seconds = kill_after
            while self._size() < said_before + lines * len("saved 1\n"):
                time.sleep(0.0005)
            time.sleep(seconds)
            process.kill()
        process.join(60)
        code = process.exitcode
        process.close()
        return code

    def _size(self) -> int:
        return self.report.stat().st_size if self.report.exists() else 0

    def judge(self) -> Report:
        """Judge the folder as the last process left it."""
        said = Report(self.report).read()
        began = time.monotonic()
        judge(self.folder, said)
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        return said


@pytest.fixture
def kills(processes, tmp_path) -> Kills:
    return Kills(processes, tmp_path)


def test_a_training_that_is_killed_at_random_times_loses_nothing(kills, scale, figure):
    """All files are whole, all reported saves are there, and the next process goes on from them."""
    seed = random.randrange(2**32)
    choose = random.Random(seed)
    count = scale(40, 1000)
    for number in range(count):
        before = kills.judge()
        code = kills.run(go_on_until_killed, kill_after=(choose.randrange(6), choose.uniform(0, 0.02)))
        assert code == -signal.SIGKILL, f"seed {seed}, kill {number}"
        said = kills.judge()
        for step in said.resumed[len(before.resumed) :]:
            assert step >= max(before.saved, default=0), f"seed {seed}, kill {number}"
    assert kills.run(do_one_thing, "", 0, "") == 0
    said = kills.judge()
    assert len(list(kills.folder.glob("net*.ckpt"))) == KEEP
    assert not list(kills.folder.glob(".net*.tmp")), "the next start sweeps what the dead left"
    assert len(said.saved) > count / 2, "most processes should save before they are killed"
    assert len(set(said.saved)) == len(said.saved)
    figure("kills at random times", count)
    figure("saves reported by trainings that were killed at random times", len(said.saved) + len(said.overwritten))
    figure("lost or half written checkpoints", 0)
    figure("slowest look at a folder after a kill, seconds", round(kills.slowest_seconds, 3))


@pytest.mark.parametrize(
    ("act", "steps_before"),
    [("resume", 0), ("resume", 2), ("save", 0), ("save", 1), ("save", KEEP), ("overwrite", 0), ("overwrite", 2)],
)
def test_a_training_that_is_killed_between_any_two_system_calls_loses_nothing(
    kills, tmp_path, figure, act, steps_before
):
    """Before, within and after each call that changes anything, in first saves, later ones and overwriting ones."""
    kill_at_each_call(kills, tmp_path, figure, act, steps_before, partial(kills.run, do_one_thing))


def test_a_training_that_is_killed_while_it_writes_past_the_page_cache_loses_nothing(kills, tmp_path, figure):
    """The same for the calls that large files need, in whichever thread they are made."""
    kill_at_each_call(kills, tmp_path, figure, "save", 1, partial(kills.run, partial(past_the_cache, do_one_thing)))


def kill_at_each_call(kills, tmp_path, figure, act, steps_before, run) -> None:
    """Kill a process around each call of one act, and judge what it leaves."""
    if steps_before:
        kills.run(go_on_until_killed, steps_before)
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    for path in (kills.folder, kills.report):
        if path.exists():
            path.rename(prepared / path.name)
    count = points = 0
    for moment in MOMENTS:
        for number in range(1, 1000):
            shutil.rmtree(kills.folder, ignore_errors=True)
            kills.report.unlink(missing_ok=True)
            shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
            code = run(act, number, moment)
            said = kills.judge()
            if code == 0:
                break
            assert code == -signal.SIGKILL, f"{moment} call {number}"
            assert kills.run(do_one_thing, "", 0, "") == 0, f"after a kill {moment} call {number}"
            after = kills.judge()
            assert after.resumed[-1] >= max(said.saved, default=0)
            count += 1
        points = number - 1
        assert points >= 1
    figure("kills before, within and after single system calls", count)
    figure("system calls that were kill points", points)


def test_a_training_that_was_started_as_a_program_loses_nothing_either(kills, tmp_path):
    """The same for a program that the shell starts and kills, with nothing forked or shared."""
    root = Path(__file__).parents[2]
    program = "import sys, pathlib; from tests.faults.training import go_on_until_killed as go; "
    program += "go(*map(pathlib.Path, sys.argv[1:]))"
    process = subprocess.Popen([sys.executable, "-c", program, kills.folder, kills.report], cwd=root)
    try:
        while len(Report(kills.report).read().saved) < 5:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    kills.judge()
    assert kills.run(do_one_thing, "", 0, "") == 0
    assert kills.judge().resumed[-1] >= 5
