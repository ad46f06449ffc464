"""What a training does in trouble: exceptions, signals, a disk that refuses."""

from __future__ import annotations

import errno
import os
import signal

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, Model, ModelCheckpoint, load_checkpoint
from milepost.errors import GraphError, SaveError
from milepost.nn import CrossEntropyLoss, Momentum
from milepost.signals import SIGNALS
from milepost.storage.local import LocalStorage
from milepost.train.callback import Callback

pytestmark = pytest.mark.filterwarnings("ignore:.*-graph.meta was not written")
BATCHES = [(torch.full((4, 4), float(i)), torch.arange(4) % 3) for i in range(6)]


@pytest.fixture(autouse=True)
def _without_graph(monkeypatch):
    """Tracing has tests of its own."""

    def refuse(*args, **kwargs):
        raise GraphError("graph", found="a test about something else", expected="speed", remedy="None is needed.")

    monkeypatch.setattr("milepost.recorder.graph_meta", refuse)


class At(Callback):
    """Does something at a step's beginning."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_train_step_begin(self, run_context):
        if run_context.original_args().cur_step_num == self.step:
            self.act()


def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 3))
    return net, Model(net, CrossEntropyLoss(), Momentum(net.parameters(), 0.05, 0.9))


def saver(folder, **settings):
    return ModelCheckpoint("run", folder, CheckpointConfig(**{"save_checkpoint_steps": 4} | settings))


def left(folder):
    return sorted(path.name for path in folder.glob("*.ckpt"))


def fail():
    raise ZeroDivisionError


def test_an_exception_saves_the_last_finished_step(tmp_path):
    """Under a name that says so; the exception goes its way."""
    _, model = build()
    with pytest.raises(ZeroDivisionError):
        model.train(2, BATCHES, [saver(tmp_path, exception_save=True), At(8, fail)])
    assert left(tmp_path) == ["run-1_4.ckpt", "run-2_1_breakpoint.ckpt"]


def test_an_exception_right_after_a_save_needs_no_breakpoint(tmp_path):
    """The step is in a checkpoint already; two of one step are never written."""
    _, model = build()
    with pytest.raises(ZeroDivisionError):
        model.train(2, BATCHES, [saver(tmp_path, exception_save=True), At(5, fail)])
    assert left(tmp_path) == ["run-1_4.ckpt"]


def test_without_the_setting_an_exception_saves_nothing(tmp_path):
    """As in MindSpore, it is asked for."""
    _, model = build()
    with pytest.raises(ZeroDivisionError):
        model.train(2, BATCHES, [saver(tmp_path), At(8, fail)])
    assert left(tmp_path) == ["run-1_4.ckpt"]


def test_a_breakpoint_that_cannot_be_saved_does_not_hide_the_exception(tmp_path, monkeypatch):
    """What ended the training is what the user must see."""
    _, model = build()
    callbacks = [saver(tmp_path, exception_save=True), At(6, lambda: refuse_all(monkeypatch)), At(7, fail)]
    with pytest.warns(UserWarning, match="before the exception was not saved"), pytest.raises(ZeroDivisionError):
        model.train(2, BATCHES, callbacks)


def refuse_all(monkeypatch):
    def refuse(self, name, nbytes, **settings):
        error = SaveError(name, found="No space left on device", expected="space", remedy="Free some.")
        error.errno = errno.ENOSPC
        raise error

    monkeypatch.setattr(LocalStorage, "create", refuse)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_ends_the_training_after_the_step_which_is_saved(tmp_path, number):
    """It stops cleanly, goes on exactly from the breakpoint, and the handlers are those from before."""
    straight, model = build()
    model.train(3, BATCHES)
    handler = signal.getsignal(number)
    net, model = build()
    with pytest.warns(UserWarning, match=f"{number.name} ends the training; newest checkpoint: .*run-2_3_breakpoint"):
        model.train(3, BATCHES, [saver(tmp_path, save_on_signal=True), At(9, lambda: os.kill(os.getpid(), number))])
    assert signal.getsignal(number) == handler
    assert left(tmp_path) == ["run-1_4.ckpt", "run-2_2.ckpt", "run-2_3_breakpoint.ckpt"]
    assert load_checkpoint(tmp_path / "run-2_3_breakpoint.ckpt").metadata["global_step"] == 9
    net, model = build()
    torch.manual_seed(77)
    model.train(3, BATCHES, saver(tmp_path), resume="must")
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), net.parameters(), strict=True))


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    """Nobody has to kill -9 a training that does not listen."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    _, model = build()
    signals = []

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        signals.append("first")
        os.kill(os.getpid(), signal.SIGINT)
        signals.append("second")

    try:
        with pytest.raises(KeyboardInterrupt):
            model.train(2, BATCHES, [saver(tmp_path, save_on_signal=True), At(3, twice)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert signals == ["first"]


def test_a_full_disk_is_told_once_and_the_training_goes_on(tmp_path, monkeypatch):
    """With on_error="warn"; when there is room again, the next due save succeeds."""
    create = LocalStorage.create
    tries = []

    def refuse(self, name, nbytes, **settings):
        tries.append(name)
        if len(tries) <= 3:
            error = SaveError(name, found="No space left on device", expected="space", remedy="Free some.")
            error.errno = errno.ENOSPC
            raise error
        return create(self, name, nbytes)

    monkeypatch.setattr(LocalStorage, "create", refuse)
    _, model = build()
    with pytest.warns(UserWarning, match="No space left") as told:
        model.train(3, BATCHES, saver(tmp_path, on_error="warn"))
    assert len([warning for warning in told if "not saved" in str(warning.message)]) == 1
    assert tries == ["run-1_4.ckpt", "run-2_2.ckpt", "run-2_6.ckpt", "run-3_4.ckpt", "run-3_6.ckpt"]
    assert left(tmp_path) == ["run-3_4.ckpt", "run-3_6.ckpt"]


def test_a_full_disk_ends_the_training_by_default(tmp_path, monkeypatch):
    """An error is an error, unless it was asked to be less."""
    _, model = build()
    with pytest.raises(SaveError, match="No space left"):
        model.train(3, BATCHES, [saver(tmp_path), At(6, lambda: refuse_all(monkeypatch))])
    assert left(tmp_path) == ["run-1_4.ckpt"]
