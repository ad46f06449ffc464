"""A training that is evaluated in its middle: when, what is told, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, EarlyStopping, Model, ModelCheckpoint, load_checkpoint
from milepost.errors import GraphError, SettingError, SettingTypeError, TrainingError
from milepost.nn import CrossEntropyLoss, Momentum
from milepost.policy.save import EverySteps
from milepost.testing import assert_resumes_exactly
from milepost.train.callback import Callback

pytestmark = pytest.mark.filterwarnings("ignore:.*-graph.meta was not written")


@pytest.fixture(autouse=True)
def _without_graph(monkeypatch):
    """Tracing a graph takes a second a training; what it leaves untouched is tested with it."""

    def refuse(*args, **kwargs):
        raise GraphError("graph", found="a test about something else", expected="speed", remedy="None is needed.")

    monkeypatch.setattr("milepost.recorder.graph_meta", refuse)


class Evaluations(Callback):
    """Notes the step of the training at each evaluation, and what was measured."""

    def __init__(self):
        self.step = 0
        self.at = []
        self.metrics = []

    def on_train_step_end(self, run_context):
        self.step = run_context.original_args().cur_step_num

    def on_eval_end(self, run_context):
        self.at.append(self.step)
        self.metrics.append(run_context.original_args().metrics)


def data():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 4, generator=generator), torch.arange(8) % 3) for _ in range(4)]


def model() -> Model:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    return Model(net, CrossEntropyLoss(), Momentum(net.parameters(), 0.05, 0.9))


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [(1, [4, 8, 12]), (2, [8]), ([1, 3], [4, 12]), (EverySteps(5), [5, 10]), (EverySteps(4), [4, 8, 12])],
    ids=str,
)
def test_an_evaluation_comes_when_it_was_asked_for(frequency, expected):
    """After so many epochs, after certain ones, or after so many steps."""
    seen = Evaluations()
    model().fit(3, data(), data(), frequency, seen)
    assert seen.at == expected
    assert set(seen.metrics[0]) == {"eval_loss", "accuracy"}


def test_an_evaluation_leaves_the_training_as_it_is():
    """The same parameters to the bit, with or without."""
    first = model()
    first.fit(3, data(), data(), EverySteps(3))
    second = model()
    second.train(3, data())
    states = zip(first.network.state_dict().values(), second.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in states)
    assert first.network.training == second.network.training


@pytest.mark.parametrize("frequency", [1, EverySteps(3)], ids=["epochs", "steps"])
def test_what_was_measured_is_kept_and_the_best_named(tmp_path, frequency):
    """The checkpoint of the moment has it, written before or after."""
    seen = Evaluations()
    saver = ModelCheckpoint("net", tmp_path, CheckpointConfig(monitor="eval_loss", mode="min", keep_checkpoint_max=1))
    model().fit(3, data(), data(), frequency, [saver, seen])
    losses = [each["eval_loss"] for each in seen.metrics]
    step = seen.at[losses.index(min(losses))]
    assert load_checkpoint(tmp_path / "net-best.ckpt").metadata["global_step"] == step
    assert load_checkpoint(saver.best_ckpt_file_name).metadata["global_step"] == step


def test_a_training_that_gets_no_better_ends_early():
    """After `patience` evaluations without a better value."""
    seen = Evaluations()
    model().fit(9, data(), data(), 1, [EarlyStopping("accuracy", patience=2, min_delta=1.0), seen])
    assert seen.at == [4, 8, 12]


def test_early_stopping_goes_on_where_it_was(tmp_path):
    """A resumed training ends where a straight one does, exactly."""

    def run(folder):
        stopper = EarlyStopping("accuracy", patience=4, min_delta=1.0)
        model().fit(9, data(), data(), 1, [ModelCheckpoint("net", folder), stopper], resume="auto")

    assert_resumes_exactly(run, stop_after=[6, 9, 13])


def test_a_training_that_was_stopped_early_stays_stopped(tmp_path):
    """A script that is started again does not train one more epoch each time."""
    for _ in range(2):
        seen = Evaluations()
        stopper = EarlyStopping("accuracy", patience=2, min_delta=1.0)
        model().fit(9, data(), data(), 1, [ModelCheckpoint("net", tmp_path), stopper, seen], resume="auto")
    assert seen.at == []
    assert max(path.name for path in tmp_path.glob("*.ckpt")) == "net-3_4.ckpt"


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: EarlyStopping(mode="most"), SettingError),
        (lambda: EarlyStopping(patience=0), SettingError),
        (lambda: EarlyStopping(min_delta=-1.0), SettingError),
        (lambda: model().fit(1, data(), data(), "often"), SettingTypeError),
        (lambda: model().fit(1, data(), data(), 0), SettingError),
        (lambda: model().fit(1, data(), 7), SettingTypeError),
        (lambda: model().fit(1, data(), data(), 1, EarlyStopping("f1")), TrainingError),
    ],
)
def test_what_cannot_be_meant_is_refused(build, error):
    """With the name of what is wrong."""
    with pytest.raises(error):
        build()
