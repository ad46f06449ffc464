"""A power cut at any moment: what a save reported as done is there, whole, and the training goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.faults.power import Disk, State
from tests.faults.system_calls import SystemCalls
from tests.faults.training import KEEP, Report, Training, judge


def cuts_of_a_training(root: Path, saves: int) -> dict[tuple[State, int, int], None]:
    """Train in a folder yet to be made; return what a cut after each call may leave, and what was reported then."""
    training = Training(root / "new" / "run")
    said = Report(root)
    disk = Disk(root)
    cuts: dict[tuple[State, int, int], None] = {}

    def meet(call, do):
        result = do()
        disk.note(call, result)
        for state in disk.states():
            cuts[state, len(said.saved), len(said.overwritten)] = None
        return result

    with SystemCalls(meet):
        training.resume()
        for step in range(1, saves + 1):
            training.save(step)
            said.saved.append(step)
            training.overwrite(step)
            said.overwritten.append(step)
    return cuts


def judge_cut(root: Path, folder: Path, state: State, saved: int, overwritten: int) -> None:
    """Put what a cut left into a folder, judge it, and go on from there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in state:
        assert path.parent == root / "new" / "run"
        (folder / path.name).write_bytes(content)
    judge(folder, Report(root, [0], list(range(1, saved + 1)), list(range(1, overwritten + 1))))
    training = Training(folder)
    resumed = training.resume()
    assert resumed >= saved
    training.save(resumed + 1)
    training.manager.close()


def test_a_power_cut_at_any_moment_loses_nothing_that_was_reported(tmp_path, scale, figure):
    """After each system call, whichever of the changes that were not fsynced have reached the disk, and which not."""
    root = tmp_path / "disk"
    root.mkdir()
    cuts = cuts_of_a_training(root, scale(KEEP + 2, 10 * KEEP))
    for state, saved, overwritten in cuts:
        judge_cut(root, tmp_path / "after", state, saved, overwritten)
    assert len(cuts) > 50
    figure("states of the disk after a power cut", len(cuts))


@pytest.mark.parametrize("forgotten", ["content", "name"])
def test_a_save_that_forgot_an_fsync_would_be_found_out(tmp_path, monkeypatch, forgotten):
    """The model of the disk is worth something: without either of the two kinds of fsync, saves are lost."""
    is_folder = {"content": os.path.isfile, "name": os.path.isdir}[forgotten]

    class Forgetful(Disk):
        def _fsync(self, result, descriptor):
            if not is_folder(f"/proc/self/fd/{descriptor}"):
                super()._fsync(result, descriptor)

    monkeypatch.setattr("tests.faults.test_power_cut.Disk", Forgetful)
    root = tmp_path / "disk"
    root.mkdir()
    cuts = cuts_of_a_training(root, 1)
    lost = 0
    for state, saved, overwritten in cuts:
        try:
            judge_cut(root, tmp_path / "after", state, saved, overwritten)
        except Exception:
            lost += 1
    assert lost
