"""The progress bar: a moving bar on a terminal, a line of text per epoch elsewhere."""

from __future__ import annotations

import re
import sys
import time

import pytest
import torch

from milepost.errors import MissingExtraError
from milepost.manager import CheckpointManager
from milepost.moment import Moment
from milepost.nn import CrossEntropyLoss, Momentum
from milepost.train.callback import Callback
from milepost.train.checkpoint import ModelCheckpoint
from milepost.train.model import Model
from milepost.train.progress import ProgressBar


@pytest.fixture
def model(make_network):
    network = make_network()
    return Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))


@pytest.fixture
def terminal(monkeypatch):
    """Makes rich take standard output for a terminal, without colours."""
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}.items():
        monkeypatch.setenv(name, value)


def screen(text: str) -> list[str]:
    """The lines that were drawn, without control sequences."""
    return [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", text).splitlines() if line.strip()]


class Slow(list):
    """Batches that come slowly enough for the bar to be drawn in between."""

    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.1)
            yield batch


LINE = re.compile(r"Epoch (\d)/2: (\d+)/(\d+) steps, loss (\d+\.\d{4}), accuracy (\d+\.\d)%, \d+\.\d s")


def test_in_a_pipe_each_epoch_is_one_line(model, blobs, capsys):
    """Steps, mean loss, accuracy and time; no control characters."""
    losses = []

    class Losses(Callback):
        def step_end(self, run_context):
            losses.append(run_context.original_args().net_outputs.item())

    model.train(2, blobs, [ProgressBar(), Losses()])
    lines = [LINE.fullmatch(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.groups()[:3] for line in lines] == [("1", "12", "12"), ("2", "12", "12")]
    assert float(lines[1][4]) == pytest.approx(sum(losses[12:]) / 12, abs=1e-4)


def test_the_accuracy_is_counted_over_labels(blobs, capsys):
    """Over an evaluation with a small last batch it is the metric's own figure."""
    accuracy = Model(torch.nn.Linear(4, 3), CrossEntropyLoss()).eval(blobs, ProgressBar())["accuracy"]
    line = capsys.readouterr().out
    assert line.startswith("Evaluation: 12/12 steps, loss ")
    assert f", accuracy {accuracy:.1%}, " in line


def test_without_classes_there_is_no_accuracy(capsys):
    """A regression has its loss alone."""
    network = torch.nn.Linear(2, 2)
    model = Model(network, torch.nn.MSELoss(), Momentum(network.parameters(), 0.1, 0.9))
    model.train(1, [(torch.ones(3, 2), torch.ones(3, 2))], ProgressBar())
    assert re.fullmatch(r"Epoch 1/1: 1/1 steps, loss \d+\.\d{4}, \d+\.\d s\n", capsys.readouterr().out)


def test_on_a_terminal_the_bar_moves(terminal, model, blobs, capsys):
    """It begins at no step, is drawn in between, and is left at the last step with the final figures."""
    model.train(1, Slow(blobs[:6]), ProgressBar())
    output = capsys.readouterr().out
    steps = [int(found) for found in re.findall(r"(\d+)/6", output)]
    assert steps[0] == 0
    assert steps[-1] == 6
    assert set(steps) - {0, 6}
    assert steps == sorted(steps)
    assert re.search(r"Epoch 1/1 .* 6/6 loss \d+\.\d{4}  accuracy \d+\.\d% +0:00:0\d", screen(output)[-1])
    assert output.count("\x1b[?25h") == 1, "the cursor is shown again"


def test_after_a_resume_within_an_epoch_the_bar_begins_there(terminal, model, blobs, capsys, tmp_path):
    """Steps that are behind are full from the first moment."""
    with CheckpointManager(tmp_path, model.network, model.optimizer) as checkpoints:
        checkpoints.start()
        checkpoints.save(Moment(1, 4, 4, 6))
    capsys.readouterr()
    model.train(1, blobs[:6], [ProgressBar(), ModelCheckpoint(directory=tmp_path)], resume="must")
    assert re.findall(r"(\d+)/6", capsys.readouterr().out)[0] == "4"


def test_an_unknown_number_of_steps_is_shown_as_such(terminal, model, blobs, capsys):
    """A stream has steps but no end."""

    class Stream:
        def __iter__(self):
            return iter(blobs[:3])

    model.train(1, Stream(), ProgressBar())
    assert "3/? loss" in screen(capsys.readouterr().out)[-1]


def test_an_error_leaves_the_terminal_as_it_was(terminal, model, blobs, capsys):
    """The bar is ended and the cursor shown again when the training fails."""

    class Fail(Callback):
        def step_end(self, run_context):
            raise RuntimeError("planned")

    with pytest.raises(RuntimeError, match="planned"):
        model.train(1, blobs, [ProgressBar(), Fail()])
    assert capsys.readouterr().out.count("\x1b[?25h") == 1


def test_labels_that_cannot_be_counted_do_not_end_the_training(capsys):
    """A bar only shows; a loss over single samples, without a batch, still trains."""
    network = torch.nn.Linear(2, 3)
    model = Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))
    model.train(1, [(torch.ones(2), torch.tensor(1))], ProgressBar())
    assert "accuracy" not in capsys.readouterr().out


def test_without_rich_the_extra_is_named(monkeypatch):
    """The bar says how to install what it needs."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(MissingExtraError, match=r"milepost\[progress\]"):
        ProgressBar()
