"""Callbacks are called in MindSpore's order, told MindSpore's facts, and left again whatever happens."""

from __future__ import annotations

import re

import pytest
import torch

from milepost.errors import SettingError, SettingTypeError, TrainingError
from milepost.nn import CrossEntropyLoss, Momentum
from milepost.train.callback import (
    Callback,
    CheckpointConfig,
    LossMonitor,
    ModelCheckpoint,
    RunContext,
    SaveMonitor,
    TimeMonitor,
)
from milepost.train.model import Model

SHORT_NAMES = ("begin", "epoch_begin", "step_begin", "step_end", "epoch_end", "end")
LONG_NAMES = tuple(f"on_{mode}_{name}" for mode in ("train", "eval") for name in SHORT_NAMES)


@pytest.fixture
def model(make_network):
    network = make_network()
    return Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))


class Journal(Callback):
    """Writes every call into a shared list, and does at one of them what it is told."""

    def __init__(self, journal, label="", names=SHORT_NAMES, at=None, act=None):
        self.journal, self.label = journal, label
        for name in names:
            setattr(self, name, self._noting(name, act if name == at else None))

    def _noting(self, name, act):
        def note(run_context):
            self.journal.append(self.label + name)
            if act:
                act(run_context)

        return note

    def __enter__(self):
        self.journal.append(self.label + "enter")
        return self

    def __exit__(self, kind, error, trace):
        self.journal.append(self.label + "exit" + (f" after {kind.__name__}" if kind else ""))


STEP = ["step_begin", "step_end"]
EPOCH = ["epoch_begin", *STEP, *STEP, "epoch_end"]


def fail(run_context):
    raise RuntimeError("planned")


@pytest.mark.parametrize(
    ("at", "act", "expected"),
    [
        (None, None, ["begin", *EPOCH, *EPOCH, "end", "exit"]),
        ("step_end", RunContext.request_stop, ["begin", "epoch_begin", *STEP, "epoch_end", "end", "exit"]),
        ("step_begin", RunContext.request_stop, ["begin", "epoch_begin", *STEP, "epoch_end", "end", "exit"]),
        ("epoch_end", RunContext.request_stop, ["begin", *EPOCH, "end", "exit"]),
        ("step_begin", fail, ["begin", "epoch_begin", "step_begin", "exit after RuntimeError"]),
        ("epoch_end", fail, ["begin", *EPOCH, "exit after RuntimeError"]),
        ("begin", fail, ["begin", "exit after RuntimeError"]),
        ("end", fail, ["begin", *EPOCH, *EPOCH, "end", "exit after RuntimeError"]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_life_cycle_of_a_training(model, blobs, at, act, expected):
    """Two epochs of two steps: every moment in order; a stop still closes the epoch, an error only leaves."""
    journal = []
    callback = Journal(journal, at=at, act=act)
    if act is fail:
        with pytest.raises(RuntimeError, match="planned"):
            model.train(2, blobs[:2], callback)
    else:
        model.train(2, blobs[:2], callback)
    assert journal == ["enter", *expected]


def test_life_cycle_of_an_evaluation(model, blobs):
    """One epoch, with the same moments."""
    journal = []
    model.eval(blobs[:2], Journal(journal))
    assert journal == ["enter", "begin", *EPOCH, "end", "exit"]


@pytest.mark.parametrize(("mode", "run"), [("train", lambda model, *rest: model.train(1, *rest)), ("eval", Model.eval)])
def test_long_names_are_of_one_mode(model, blobs, mode, run):
    """A callback that overrides a long name is called in that mode alone."""
    journal = []
    run(model, blobs[:1], Journal(journal, names=LONG_NAMES))
    assert journal == ["enter", *(f"on_{mode}_{name}" for name in SHORT_NAMES), "exit"]


def test_callbacks_run_in_the_order_of_the_list(model, blobs):
    """Each moment reaches the first callback first; they are left in reverse."""
    journal = []
    model.train(1, blobs[:1], (Journal(journal, "1 "), Journal(journal, "2 ")))
    moments = [f"{label} {name}" for name in SHORT_NAMES for label in (1, 2)]
    assert journal == ["1 enter", "2 enter", *moments, "2 exit", "1 exit"]


def test_callbacks_entered_are_left_when_a_later_one_cannot_be(model, blobs):
    """A callback that fails on entering does not keep the earlier ones from closing what they opened."""

    class Unenterable(Callback):
        def __enter__(self):
            raise RuntimeError("planned")

    journal = []
    with pytest.raises(RuntimeError, match="planned"):
        model.train(1, blobs[:1], [Journal(journal), Unenterable()])
    assert journal == ["enter", "exit after RuntimeError"]


def test_callbacks_of_a_training_are_told_its_facts(model, blobs):
    """The fields of MindSpore's cb_params, and in addition the step in the epoch, predictions and labels."""
    told = []

    class Listen(Callback):
        def step_end(self, run_context):
            params = run_context.original_args()
            told.append((params.cur_epoch_num, params.cur_step_num, params.cur_step_in_epoch))
            assert params.net_outputs.shape == ()
            assert not params.net_outputs.requires_grad
            assert params.predictions.shape == (8, 3)
            assert not params.predictions.requires_grad
            assert torch.equal(params.labels, params.train_dataset_element[1])

        def end(self, run_context):
            self.params = run_context.original_args()

    listen = Listen()
    batches = blobs[:2]
    model.train(2, batches, listen)
    params = listen.params
    assert told == [(1, 1, 1), (1, 2, 2), (2, 3, 1), (2, 4, 2)]
    assert (params.cur_epoch_num, params.cur_step_num, params.cur_step_in_epoch) == (2, 4, 2)
    assert (params.mode, params.epoch_num, params.batch_num) == ("train", 2, 2)
    assert params.network is params.train_network is model.network
    assert (params.loss_fn, params.optimizer) == (model.loss_fn, model.optimizer)
    assert params.train_dataset is batches
    assert params.valid_dataset is None
    assert params.list_callback == [listen]


def test_callbacks_of_an_evaluation_are_told_its_result(model, blobs):
    """At the end the metrics are there."""

    class Listen(Callback):
        def end(self, run_context):
            self.params = run_context.original_args()

    listen = Listen()
    result = model.eval(blobs, listen)
    assert listen.params.mode == "eval"
    assert listen.params.metrics == result
    assert listen.params.eval_network is model.network
    assert listen.params.valid_dataset is blobs
    assert listen.params.optimizer is None


def test_no_batch_is_drawn_before_epoch_begin(model, blobs):
    """The data set's iterator is made after `epoch_begin`, so a callback sees the random state that it starts from."""
    journal = []

    class Noting:
        def __iter__(self):
            journal.append("iterator")
            return iter(blobs[:1])

    model.train(1, Noting(), Journal(journal, names=("epoch_begin", "step_begin")))
    assert journal == ["enter", "epoch_begin", "iterator", "step_begin", "exit"]


def test_loss_monitor_prints_mindspores_line(model, blobs, capsys):
    """Every n-th step of the training, counted over the epochs, is one line; an evaluation prints none."""
    model.train(2, blobs[:3], LossMonitor(2))
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d+\.\d+", "L", line) for line in lines] == [
        "epoch: 1 step: 2, loss is L",
        "epoch: 2 step: 1, loss is L",
        "epoch: 2 step: 3, loss is L",
    ]
    model.eval(blobs[:3], LossMonitor())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("per_print_times", [0, 1])
def test_loss_monitor_ends_a_training_whose_loss_is_not_finite(model, blobs, bad, per_print_times, capsys):
    """NaN or infinity ends the training at that step, also when nothing is printed."""
    points, labels = blobs[1]
    with pytest.raises(TrainingError, match=r"^epoch: 1 step: 2: found the loss -?(nan|inf)"):
        model.train(1, [blobs[0], (points * bad, labels)], LossMonitor(per_print_times))
    assert len(capsys.readouterr().out.splitlines()) == per_print_times


def test_time_monitor_prints_mindspores_line(model, blobs, capsys):
    """One line per epoch, in milliseconds; the time per step is the epoch's shared among its steps."""
    model.train(1, blobs, TimeMonitor())
    model.eval(blobs, TimeMonitor(data_size=2))
    for line, mode, steps in zip(capsys.readouterr().out.splitlines(), ("Train", "Eval"), (12, 2), strict=True):
        found = re.fullmatch(rf"{mode} epoch time: +(\d+\.\d{{3}}) ms, per step time: +(\d+\.\d{{3}}) ms", line)
        assert found, line
        assert float(found[2]) == pytest.approx(float(found[1]) / steps, abs=1e-3)


@pytest.mark.parametrize("mode", [False, True, "lazy"])
@pytest.mark.parametrize("is_first", [True, False])
def test_what_checkpoints_cost_is_printed(blobs, model, tmp_path, capsys, mode, is_first):
    """One line for each, the last one too, and one for all; wherever the monitor stands among the callbacks."""
    config = CheckpointConfig(save_checkpoint_steps=2, async_save=mode)
    callbacks = [ModelCheckpoint("net", tmp_path, config), SaveMonitor()]
    model.train(2, blobs, callbacks[:: -1 if is_first else 1])
    *lines, total = capsys.readouterr().out.splitlines()
    saved = callbacks[0].stats.saved
    assert 1 <= len(lines) <= saved
    assert all(re.fullmatch(r"net-\d_\d+\.ckpt: \d\.\d{3} s in the step, .*MB.*", line) for line in lines), lines
    assert lines[-1].startswith(callbacks[0].latest_ckpt_file_name.rpartition("/")[2])
    assert re.fullmatch(rf"net: {saved} checkpoints, \d\.\d{{3}} s of standing still \([\d.]+ ms each\)", total)


@pytest.mark.parametrize(
    ("make", "kind", "field"),
    [
        (lambda: LossMonitor(-1), SettingError, "per_print_times"),
        (lambda: LossMonitor(1.0), SettingTypeError, "per_print_times"),
        (lambda: LossMonitor(True), SettingTypeError, "per_print_times"),
        (lambda: TimeMonitor(0), SettingError, "data_size"),
        (lambda: TimeMonitor("1"), SettingTypeError, "data_size"),
    ],
)
def test_monitors_refuse_impossible_settings_by_name(make, kind, field):
    """A number that cannot be meant is refused at construction."""
    with pytest.raises(kind, match=rf"^{field}: "):
        make()
