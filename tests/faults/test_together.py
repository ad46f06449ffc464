"""Several processes in one folder, several threads on one manager: nobody takes what is another's."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from pathlib import Path

import pytest
from tests.faults.system_calls import SystemCalls
from tests.faults.training import KEEP, PREFIX, Training, step_of

from milepost.catalog.names import parse
from milepost.moment import Moment

STEPS = KEEP + 2


def train_one_run(folder: Path, barrier) -> None:
    """Start when all others do, and save a few steps."""
    training = Training(folder)
    barrier.wait()
    training.manager.start()
    for step in range(1, STEPS + 1):
        training.save(step)


@pytest.mark.parametrize("number", [2, 4])
def test_processes_that_start_at_once_get_runs_of_their_own(tmp_path, processes, scale, figure, number):
    """With one prefix and one folder: as many runs as processes, each with its own files, none missing or mixed."""
    rounds = scale(10, 50)
    for each in range(1, rounds + 1):
        # Every second round in the folder of the one before, where runs have been.
        folder = tmp_path / str(each // 2)
        runs_before = len(runs_of(folder))
        barrier = processes.Barrier(number)
        workers = [processes.Process(target=train_one_run, args=(folder, barrier)) for _ in range(number)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
            assert worker.exitcode == 0
            worker.close()
        runs = runs_of(folder)
        assert sorted(runs) == list(range(1, runs_before + number + 1))
        assert set(runs.values()) == {KEEP}
    figure("starts of processes at once, in one folder with one prefix", rounds * number)
    figure("clashes among them", 0)


def runs_of(folder: Path) -> Counter[int]:
    """How many checkpoints each run has; every one is complete, and of the step that its name says."""
    names = [parse(path.name, PREFIX) for path in folder.glob("*.ckpt")]
    for name in names:
        assert step_of(folder / name.text) == name.step
    return Counter(name.run for name in names)


@pytest.mark.parametrize("same_step", [False, True], ids=["each its own steps", "all the same steps"])
def test_threads_may_save_through_one_manager(tmp_path, same_step):
    """They take turns: no save fails, each step is saved once, and the newest are kept."""
    training = Training(tmp_path)
    training.resume()
    problems: list[BaseException] = []
    barrier = threading.Barrier(4)

    def save(first: int) -> None:
        try:
            for step in range(first, 41, 1 if same_step else 4):
                barrier.wait(30)
                training.manager.save(Moment(1, step, step))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=save, args=(1 if same_step else first,)) for first in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    steps = {parse(path.name, PREFIX).step for path in tmp_path.glob("*.ckpt")}
    # Threads that arrive out of order may save the steps of one round in any.
    assert steps == {38, 39, 40} if same_step else len(steps) == KEEP and steps <= {37, 38, 39, 40}
    assert not list(tmp_path.glob(".*.tmp"))


def test_threads_that_overwrite_one_name_leave_one_of_their_files(tmp_path):
    """Whoever is last wins; the file is never a mixture."""
    trainings = [Training(tmp_path) for _ in range(4)]

    def overwrite(training: Training, step: int) -> None:
        for _ in range(10):
            training.overwrite(step)

    threads = [threading.Thread(target=overwrite, args=(training, step)) for step, training in enumerate(trainings, 1)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for path in tmp_path.glob("*.ckpt"):
            assert step_of(path) in (1, 2, 3, 4)
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_manager_that_is_collected_while_another_one_starts_gives_its_run_back(tmp_path, processes):
    """Garbage is collected at any moment, also in the middle of taking a lock; that must not wait for itself."""
    process = processes.Process(target=start_while_another_is_collected, args=(tmp_path,))
    process.start()
    process.join(20)
    is_stuck = process.is_alive()
    process.kill()
    process.join()
    assert not is_stuck
    assert process.exitcode == 0
    process.close()


def start_while_another_is_collected(folder: Path) -> None:
    gc.disable()
    forgotten = Training(folder)
    forgotten.manager.start()
    forgotten.cycle = forgotten
    del forgotten
    training = Training(folder)

    def meet(call, do):
        result = do()
        if call.name == "lockf":
            gc.collect()
        return result

    with SystemCalls(meet) as calls:
        training.manager.start()
    assert "unlink" in [call.name for call in calls.calls], "the forgotten one should have been collected in between"
    training.save(1)
