"""A real small file system running full: told in time, nothing lost, and the training goes on."""

from __future__ import annotations

import errno
import os
import warnings

import pytest
from tests.faults.system_calls import SystemCalls
from tests.faults.training import OVERWRITTEN, Report, Training, judge, step_of

from milepost.checkpoint.saving import save_checkpoint
from milepost.errors import SaveError
from milepost.moment import Moment


def fill(folder, free_nbytes: int) -> None:
    """Leave only so much room in the file system of a folder."""
    status = os.statvfs(folder)
    nbytes = status.f_bavail * status.f_frsize - free_nbytes
    with open(folder / "filler", "ab") as file:
        file.write(bytes(max(0, nbytes)))


def test_a_training_that_fills_the_disk_is_told_and_goes_on_when_there_is_room_again(small_disk):
    """A `SaveError` names needed and free bytes; what was saved is whole; after room is made the next save succeeds."""
    training = Training(small_disk / "run", keep_checkpoint_max=None)
    training.resume()
    with pytest.raises(SaveError, match=r"[\d,]+ bytes free, [\d,]+ needed.*Free some space") as caught:
        for step in range(1, 1000):
            training.save(step)
    assert caught.value.errno == errno.ENOSPC
    assert step > 5
    saved = sorted((small_disk / "run").glob("*.ckpt"), key=lambda path: step_of(path))
    assert [step_of(path) for path in saved] == list(range(1, step))
    assert not list((small_disk / "run").glob(".*.tmp"))
    for path in saved[:3]:
        path.unlink()
    assert step_of(training.save(step)) == step


@pytest.mark.parametrize("act", ["save", "overwrite"])
@pytest.mark.parametrize("way", ["through the cache", "past it"])
def test_a_disk_that_fills_up_in_the_middle_of_a_save_loses_nothing(small_disk, request, act, way):
    """The room that was there before the first byte is gone at the second: the file system itself refuses."""
    if way == "past it":
        request.getfixturevalue("past_cache")
    training = Training(small_disk / "run")
    training.resume()
    save = getattr(training, act)
    save(1)
    before = {path.name: path.read_bytes() for path in (small_disk / "run").glob("*.ckpt")}

    def meet(call, do):
        if call.name in ("write", "fallocate"):
            fill(small_disk, 64 << 10)
        return do()

    with SystemCalls(meet), pytest.raises(SaveError, match="Free some space") as caught:
        save(2)
    assert caught.value.errno == errno.ENOSPC
    files = [path for path in (small_disk / "run").iterdir() if path.suffix != ".lock"]
    assert {path.name: path.read_bytes() for path in files} == before
    (small_disk / "filler").unlink()
    save(3)
    assert step_of(small_disk / "run" / OVERWRITTEN if act == "overwrite" else training.manager.latest()) == 3


def test_a_disk_that_is_full_from_the_beginning_says_so(small_disk):
    """The first save is refused with the same error, and the folder holds no checkpoint."""
    fill(small_disk, 0)
    training = Training(small_disk)
    with pytest.raises(SaveError, match="Free some space"):
        save_checkpoint(training.net, small_disk / "a.ckpt")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_a_training_that_was_told_to_warn_trains_on_through_a_full_disk(small_disk):
    """The cause is told once; the saves that are due later are tried, and succeed when there is room."""
    training = Training(small_disk / "run", on_error="warn")
    training.resume()
    training.manager.step(Moment(1, 1, 1))
    training.take_step(1)
    fill(small_disk, 0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for step in (2, 3, 4):
            training.take_step(step)
            training.manager.step(Moment(1, step, step))
    assert len(told) == 1
    assert "Free some space" in str(told[0].message)
    (small_disk / "filler").unlink()
    training.take_step(5)
    training.manager.step(Moment(1, 5, 5))
    assert step_of(training.manager.latest()) == 5


def test_trainings_that_are_killed_on_a_full_disk_lose_nothing(small_disk, tmp_path, processes):
    """A kill in the middle of a refused save leaves complete files, and the next start goes on from them."""
    report = Report(tmp_path / "report")
    training = Training(small_disk / "run")
    training.resume()
    training.save(1)
    training.manager.close()
    report.add("saved", 1)
    for room in (0, 10 << 10, 100 << 10, 200 << 10):
        fill(small_disk, room)
        process = processes.Process(target=save_until_refused_then_die, args=(small_disk / "run", report.path))
        process.start()
        process.join(60)
        assert process.exitcode == -9
        process.close()
        judge(small_disk / "run", report.read())
        (small_disk / "filler").unlink()
    again = Training(small_disk / "run")
    resumed = again.resume()
    assert resumed >= max(report.read().saved)
    again.save(resumed + 1)
    assert not list((small_disk / "run").glob(".*.tmp"))


def save_until_refused_then_die(folder, report) -> None:
    said = Report(report)
    training = Training(folder)
    step = training.resume()

    def meet(call, do):
        try:
            return do()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                os.kill(os.getpid(), 9)
            raise

    with SystemCalls(meet):
        while True:
            step += 1
            try:
                training.save(step)
            except SaveError:
                os.kill(os.getpid(), 9)
            said.add("saved", step)
            if step > 50:
                os.kill(os.getpid(), 9)
