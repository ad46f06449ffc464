"""Saves in the background, broken on purpose: killed, without room, at the end of the process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.faults.test_full_disk import fill
from tests.faults.training import KEEP, Report, Training, step_of

from milepost.catalog.names import parse
from milepost.errors import SaveError
from milepost.moment import Moment

MODES = (True, "lazy")


def train_until_killed(folder: Path, report: Path, mode: object) -> None:
    """Step after step, each saved in the background; what is durable is said."""
    said = Report(report)
    training = Training(folder, async_save=mode)
    first = training.resume()
    said.add("resumed", first)
    durable = first
    for step in range(first + 1, first + 1_000_000):
        training.take_step(step)
        training.manager.step(Moment(1, step, step))
        if training.manager.latest() is not None and (newest := training.manager.all()[-1].step) > durable:
            durable = newest
            said.add("saved", newest)


@pytest.mark.parametrize("mode", MODES)
def test_a_training_that_is_killed_while_it_saves_in_the_background_loses_nothing_durable(
    tmp_path, processes, scale, figure, mode
):
    """Every file is of one step alone, what was durable is there or expired, and the next start goes on from it."""
    chance = random.Random(5)
    folder, report = tmp_path / "run", Report(tmp_path / "report")
    count = scale(8, 200)
    for number in range(count):
        process = processes.Process(target=train_until_killed, args=(folder, report.path, mode))
        process.start()
        while len(Report(report.path).read().resumed) <= number:
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        process.join(60)
        process.close()
        said = Report(report.path).read()
        steps = sorted(step_of(path) for path in folder.glob("*.ckpt") if parse(path.name, "net"))
        assert max(steps, default=0) >= max(said.saved, default=0)
        assert len(steps) <= KEEP + 1
    said = Report(report.path).read()
    assert len(said.saved) > count / 2
    training = Training(folder)
    assert training.resume() >= max(said.saved)
    training.manager.close()
    figure("kills in the middle of saves in the background", count)


@pytest.mark.parametrize("mode", MODES)
def test_a_disk_that_fills_up_behind_the_training_is_told_at_the_next_step(small_disk, mode):
    """What was durable is whole; nothing unfinished is left; with room again, the next save succeeds."""
    training = Training(small_disk / "run", async_save=mode)
    training.resume()
    training.take_step(1)
    training.manager.step(Moment(1, 1, 1))
    training.manager.wait()
    fill(small_disk, 64 << 10)
    training.take_step(2)
    training.manager.step(Moment(1, 2, 2))
    training.take_step(3)
    with pytest.raises(SaveError, match="Free some space"):
        training.manager.wait()
    assert [path.name for path in (small_disk / "run").iterdir() if path.suffix != ".lock"] == ["net-1_1.ckpt"]
    (small_disk / "filler").unlink()
    training.manager.step(Moment(1, 3, 3))
    training.manager.close()
    assert step_of(training.manager.latest()) == 3


ENDS = {
    "its last line": "pass",
    "sys.exit": "import sys; sys.exit(3)",
    "an exception": "raise RuntimeError('planned')",
}


@pytest.mark.slow
@pytest.mark.parametrize(("end", "mode"), [*((end, "lazy") for end in ENDS), ("its last line", True)])
def test_a_program_that_ends_without_a_close_finishes_what_it_had_begun(tmp_path, end, mode):
    """However it ends, short of a kill: 40 MB are in flight when it does."""
    program = f"""
import torch
from milepost import CheckpointConfig, CheckpointManager
from milepost.moment import Moment
net = torch.nn.Linear(2000, 2500)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
net(torch.ones(1, 2000)).sum().backward()
optimizer.step()
checkpoints = CheckpointManager({str(tmp_path)!r}, net, optimizer, config=CheckpointConfig(async_save={mode!r}))
checkpoints.start()
checkpoints.step(Moment(1, 1, 1))
assert checkpoints.latest() is None
{ENDS[end]}
"""
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == {"sys.exit": 3, "an exception": 1}.get(end, 0), done.stderr
    assert "milepost" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["CKP-1_1.ckpt"]
    from milepost import load_checkpoint

    with load_checkpoint(tmp_path / "CKP-1_1.ckpt") as saved:
        saved.verify()


@pytest.mark.slow
def test_a_program_whose_last_save_fails_unseen_says_so(tmp_path):
    """Nobody asked before the end, so the end tells it."""
    program = f"""
import torch, threading
from milepost import CheckpointConfig, CheckpointManager
from milepost.moment import Moment
from milepost.storage import local
net = torch.nn.Linear(2, 2)
checkpoints = CheckpointManager({str(tmp_path)!r}, net, config=CheckpointConfig(async_save=True))
checkpoints.start()
def refuse(*_, **__):
    raise local.save_error("there", OSError(28, "No space left on device"))
local.LocalStorage.create = refuse
checkpoints.step(Moment(1, 1, 1))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "a checkpoint was not saved: there: found No space left on device" in done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_ends_a_training_after_the_save_in_flight_and_the_last_step(tmp_path, processes, mode):
    """Both are durable when the process has ended."""
    process = processes.Process(target=train_until_a_signal, args=(tmp_path / "run", tmp_path / "report", mode))
    process.start()
    deadline = time.monotonic() + 60
    while len(Report(tmp_path / "report").read().saved) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM
    process.close()
    newest = max(step_of(path) for path in (tmp_path / "run").glob("*.ckpt"))
    assert newest == max(Report(tmp_path / "report").read().saved)
    assert not list((tmp_path / "run").glob(".*.tmp"))


def train_until_a_signal(folder: Path, report: Path, mode: object) -> None:
    """Says each step before it is told to the manager, which leaves at the first that comes after the signal."""
    training = Training(folder, async_save=mode, save_on_signal=True)
    training.resume()
    for step in range(1, 1_000_000):
        training.take_step(step)
        Report(report).add("saved", step)
        training.manager.step(Moment(1, step, step))
