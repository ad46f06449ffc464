"""A power cut at any moment: what a save reported as done is there, whole, and the training goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.faults.power import Disk, State
from tests.faults.system_calls import SystemCalls
from tests.faults.training import KEEP, Report, Training, go_on_until_killed, judge


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


@pytest.mark.usefixtures("past_cache")
def test_a_power_cut_of_a_save_past_the_page_cache_loses_nothing_that_was_reported(tmp_path, figure):
    """The same for large files, whose room is taken first, and which threads write in no order."""
    root = tmp_path / "disk"
    root.mkdir()
    cuts = cuts_of_a_training(root, 2)
    for state, saved, overwritten in cuts:
        judge_cut(root, tmp_path / "after", state, saved, overwritten)
    assert len(cuts) > 30
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


@pytest.fixture
def image(tmp_path) -> Path:
    """A disk of 24 MiB with an ext4 file system, as one file."""
    path = tmp_path / "image"
    path.write_bytes(b"")
    os.truncate(path, 24 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", path], check=True, capture_output=True)
    except FileNotFoundError:
        # It comes from e2fsprogs, not from pip; the model of the disk above tries the same without it.
        pytest.skip("there is no mkfs.ext4")
    return path


def cut(image: Path, mount, tmp_path: Path, processes, target, count: int) -> tuple[int, int]:
    """Cut the power of a disk that a training saves to, at random moments; return how many saves it had, and lost ones.

    The cut is a copy of the disk while the process stands still: what is in memory only, the copy does not have.
    """
    report = tmp_path / "report"
    lost = 0
    with mount("ext4", tmp_path / "disk", "-o", "loop", source=image) as disk:
        process = processes.Process(target=target, args=(disk / "new" / "run", report))
        process.start()
        try:
            while not Report(report).read().saved:
                time.sleep(0.001)
            for _ in range(count):
                time.sleep(random.uniform(0, 0.02))
                os.kill(process.pid, signal.SIGSTOP)
                said = Report(report).read()
                shutil.copyfile(image, tmp_path / "copy")
                os.kill(process.pid, signal.SIGCONT)
                with mount("ext4", tmp_path / "after", "-o", "loop", source=tmp_path / "copy") as after:
                    try:
                        judge(after / "new" / "run", said)
                    except Exception as error:
                        lost += 1
                        problem = error
        finally:
            process.kill()
            process.join()
            process.close()
    if lost and target is go_on_until_killed:
        raise problem
    return len(said.saved) + len(said.overwritten), lost


def test_a_power_cut_of_a_real_file_system_loses_nothing_that_was_reported(
    image, mount, tmp_path, processes, scale, figure
):
    """Whatever ext4 has not written at that moment is gone; what was reported is there, and whole."""
    count = scale(10, 200)
    saved, lost = cut(image, mount, tmp_path, processes, go_on_until_killed, count)
    assert lost == 0
    figure("power cuts of a real ext4 file system", count)
    figure("saves reported in front of those", saved)


def go_on_without_fsync(folder: Path, report: Path) -> None:
    os.fsync = lambda descriptor: None
    go_on_until_killed(folder, report)


def test_a_real_power_cut_would_find_out_a_save_without_fsync(image, mount, tmp_path, processes):
    """The cut is worth something: without fsync, what was reported is lost."""
    _, lost = cut(image, mount, tmp_path, processes, go_on_without_fsync, 3)
    assert lost
