"""Each system call of a save refused in turn: a typed error, and nothing lost, left behind or changed."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.faults.system_calls import WRITING, Call, SystemCalls, refuse_at, shorten_at
from tests.faults.training import KEEP, OVERWRITTEN, Report, Training, judge, step_of

from milepost.checkpoint.loading import open_checkpoint
from milepost.checkpoint.saving import store
from milepost.errors import SaveError
from milepost.state.snapshot import Snapshot
from milepost.storage.memory import MemoryStorage

REASONS = ["ENOSPC", "EIO", "EACCES", "EROFS", "EDQUOT", "EINTR"]
NEEDED = frozenset(["open", "write", "fsync", "replace", "statvfs"])
"""No save may count as done that was refused one of these."""


class Watched:
    """A training before one more save, through the manager or over one name, that meets a fault."""

    def __init__(self, folder: Path, act: str, steps_before: int) -> None:
        self.training = Training(folder / "run")
        self.training.resume()
        self.report = folder / "report"
        self.step = steps_before
        self.save = getattr(self.training, act)
        for step in range(1, steps_before + 1):
            self.save(step)
        self.training.take_step(steps_before + 1)
        self.before = self.files()

    def files(self) -> dict[str, bytes]:
        """What is in the folder, but for the locks of runs."""
        folder = self.training.folder
        found = folder.iterdir() if folder.exists() else ()
        return {path.name: path.read_bytes() for path in found if path.suffix != ".lock"}

    def state(self) -> list[bytes]:
        """The training state and the random states, as bytes."""
        tensors = list(self.training.net.state_dict().values())
        tensors += [state["momentum_buffer"] for state in self.training.optimizer.state.values()]
        states = [torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()).encode()]
        return [*(tensor.numpy().tobytes() for tensor in tensors), *states, repr(random.getstate()).encode()]

    def descriptors(self) -> list[str]:
        """The files and folders of the test that this process has open, once for each descriptor."""
        links = []
        for descriptor in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # the one that lists them
                links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return [link for link in links if link.startswith(str(self.training.folder.parent))]

    def try_to_save(self, calls: SystemCalls) -> SaveError | None:
        """Save through a fault, and return the error, if there was one; the state must be as it was."""
        state, descriptors = self.state(), self.descriptors()
        try:
            with calls, warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of expired ones that could not be removed
                self.save(self.step + 1)
        except SaveError as error:
            return error
        finally:
            assert self.state() == state
            assert len(self.descriptors()) <= len(descriptors), "a descriptor is left open"
        return None


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("reason", REASONS)
@pytest.mark.parametrize(
    ("act", "steps_before"), [("save", 0), ("save", 1), ("save", KEEP), ("overwrite", 0), ("overwrite", 1)]
)
def test_a_save_whose_every_call_is_refused_in_turn_loses_nothing(
    tmp_path, figure, act, steps_before, reason, for_ever
):
    """A `SaveError` with errno and remedy; files, state and descriptors as before; and the next save succeeds."""
    assert set(refuse_each_call(tmp_path, figure, act, steps_before, reason, for_ever)) >= NEEDED


def refuse_each_call(tmp_path, figure, act, steps_before, reason, for_ever) -> Counter[str]:
    """Refuse each call of a save in turn, judge what comes of it, and return which calls those were."""
    number_of_reason = getattr(errno, reason)
    refused: Counter[str] = Counter()
    for number in range(1, 1000):
        watched = Watched(tmp_path / str(number), act, steps_before)
        calls = SystemCalls(refuse_at(number, number_of_reason, for_ever=for_ever))
        error = watched.try_to_save(calls)
        if len(calls.calls) < number:
            break
        check_outcome(watched, error, calls.calls, number, number_of_reason, for_ever)
        refused[calls.calls[number - 1].name] += 1
        watched.save(watched.step + 1)
        assert step_of(watched.training.manager.latest() if act == "save" else watched.training.folder / OVERWRITTEN)
        if act == "save":
            judge(watched.training.folder, Report(watched.report, saved=[steps_before + 1]))
    assert error is None
    figure("planned faults: a save refused one system call, or all from it on", number - 1)
    return refused


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("reason", ["ENOSPC", "EIO", "EINTR"])
@pytest.mark.usefixtures("past_cache")
def test_a_save_past_the_page_cache_whose_every_call_is_refused_loses_nothing(tmp_path, figure, reason, for_ever):
    """The same for the calls that large files need, in whichever thread they are made."""
    refused = refuse_each_call(tmp_path, figure, "save", 1, reason, for_ever)
    assert set(refused) >= {*NEEDED, "fallocate", "fcntl", "pwrite", "pwritev"} - {"write"}
    assert refused["pwritev"] >= 2
    assert refused["pwrite"] + refused["pwritev"] > 3


def check_outcome(
    watched: Watched, error: SaveError | None, calls: list[Call], number: int, reason: int, for_ever: bool
) -> None:
    """Raise `AssertionError` unless a refused call had the outcome that it may have."""
    call = calls[number - 1]
    files = watched.files()
    temporary = [name for name in files if name.endswith(".tmp")]
    is_named = any(each.name == "replace" for each in calls[: number - 1])
    if error is None:
        assert call.name not in NEEDED, f"call {number}, {call.name}, was refused, and the save counts as done"
        assert is_named or not for_ever
    else:
        # pathlib asks about the folder that it could not make, and may report that it is there instead.
        assert error.errno == reason or call.name == "stat"
        assert error.remedy.endswith(".")
        assert str(watched.training.folder) in str(error)
    if not for_ever and call.name != "lockf":  # a refused lock says that another process is about to sweep the file
        assert not temporary, f"call {number}, {call.name}: {temporary} is left"
    kept = {name: content for name, content in files.items() if name not in temporary}
    if error is not None and not is_named:
        assert kept == watched.before, f"call {number}, {call.name}"
    for name in kept:
        assert step_of(watched.training.folder / name) <= watched.step + 1


def test_a_file_whose_fsync_failed_is_never_published(tmp_path):
    """The kernel counts its pages as clean afterwards, so nothing may rely on them: no rename, no second fsync."""
    watched = Watched(tmp_path, "save", 1)
    synced = []

    def meet(call, do):
        if call.name == "fsync":
            synced.append(call)
            raise OSError(errno.EIO, "planned")
        assert call.name not in ("replace", "rename", "link")
        return do()

    assert watched.try_to_save(SystemCalls(meet)).errno == errno.EIO
    assert len(synced) == 1
    assert watched.files() == watched.before


@pytest.mark.parametrize("act", ["save", "overwrite"])
@pytest.mark.parametrize("way", ["through the cache", "past it"])
def test_a_write_that_takes_less_than_it_was_given_is_continued(tmp_path, request, act, way):
    """A short write is no error, and no byte is lost."""
    if way == "past it":
        request.getfixturevalue("past_cache")
    watched = Watched(tmp_path, act, 1)
    with SystemCalls() as calls:
        watched.save(2)
    writes = len([call for call in calls.calls if call.name in WRITING])
    for number in range(1, writes + 1):
        step = number + 2
        with SystemCalls(shorten_at(number)) as shortened:
            path = watched.save(step)
        assert len([call for call in shortened.calls if call.name in WRITING]) >= writes + 1
        assert step_of(path) == step


def test_signals_do_not_disturb_a_save(tmp_path):
    """A handler that runs a thousand times a second interrupts every call some time; every save is whole."""
    noted = []
    before = signal.signal(signal.SIGALRM, lambda *_: noted.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        training = Training(tmp_path)
        training.resume()
        end = time.monotonic() + 1.0
        step = 0
        while time.monotonic() < end or step < 10:
            step += 1
            assert step_of(training.save(step)) == step
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(noted) > 100


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("reason", REASONS)
def test_a_storage_that_refuses_each_verb_in_turn_loses_nothing(reason, for_ever):
    """The same through the seam of storages, so that it holds for any kind of place."""
    number_of_reason = getattr(errno, reason)
    old, new = ({"weight": torch.full((3,), value)} for value in (1.0, 2.0))
    for number in range(1, 1000):
        met: list[str] = []

        def fault(verb, name, met=met, number=number):
            met.append(verb)
            if len(met) == number or (for_ever and len(met) > number):
                raise OSError(number_of_reason, os.strerror(number_of_reason))

        calm = MemoryStorage()
        write_to(calm, old)
        storage = MemoryStorage(fault)
        storage._files = dict(calm._files)
        error = None
        try:
            write_to(storage, new)
        except SaveError as refusal:
            error = refusal
        stands = float(open_checkpoint(storage, "a.ckpt")["weight"][0])
        if len(met) < number:
            break
        assert error is not None
        assert error.errno == number_of_reason
        assert stands == 1.0
    assert error is None
    assert stands == 2.0
    assert met == ["create", "write", "commit"]


def write_to(storage: MemoryStorage, tensors: dict[str, torch.Tensor]) -> None:
    """Save tensors under one name."""
    snapshot = Snapshot()
    for name, tensor in tensors.items():
        snapshot.keep(name, "parameter", tensor)
    store(storage, "a.ckpt", snapshot, {})
