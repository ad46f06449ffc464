"""A training that is interrupted and goes on equals one that never stopped, to the bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from milepost import CheckpointConfig, Model, ModelCheckpoint, load_checkpoint
from milepost.errors import CheckpointNotFoundError, GraphError, LoadError, SettingError, TrainingError
from milepost.nn import CrossEntropyLoss, Momentum
from milepost.train.callback import Callback

pytestmark = pytest.mark.filterwarnings("ignore:.*-graph.meta was not written")


@pytest.fixture(autouse=True)
def _without_graph(monkeypatch):
    """Tracing a graph takes a second a training; what it leaves untouched is tested with it."""

    def refuse(*args, **kwargs):
        raise GraphError("graph", found="a test about something else", expected="speed", remedy="None is needed.")

    monkeypatch.setattr("milepost.recorder.graph_meta", refuse)


class Noisy(Dataset):
    """Samples that are augmented at random, as they are drawn: by torch's and by NumPy's generator."""

    def __len__(self):
        return 22

    def __getitem__(self, place):
        return torch.full((4,), float(place)) + torch.randn(4) + float(np.random.rand()), place % 3


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


LOADERS = {
    "in order": lambda: DataLoader(Noisy(), batch_size=4),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "own generator": lambda: DataLoader(
        Noisy(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "workers": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2),
    "a list": lambda: [(torch.full((4, 4), float(i)), torch.arange(4) % 3) for i in range(6)],
}
OPTIMIZERS = {
    "Momentum": lambda net: Momentum(net.parameters(), 0.05, 0.9),
    "Adam": lambda net: torch.optim.Adam(net.parameters(), lr=0.01),
    "AdamW by name": lambda net: torch.optim.AdamW(net.named_parameters(), lr=0.01),
}


class Interrupt(Callback):
    """Ends a training as a failure does: in the middle of things."""

    def __init__(self, at):
        self.at = at

    def step_begin(self, run_context):
        if run_context.original_args().cur_step_num - 1 == self.at:
            raise KeyboardInterrupt


def seed():
    torch.manual_seed(7)
    np.random.seed(7)


def final_state(net, optimizer):
    tensors = [
        *net.state_dict().values(),
        torch.get_rng_state(),
        torch.from_numpy(np.random.get_state()[1].astype("i8")),
    ]
    for state in optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return tensors


def train(folder, loader, optimizer_of, *, interrupt_at=None, resume=False, epochs=3, every=1):
    net = network()
    optimizer = optimizer_of(net)
    model = Model(net, CrossEntropyLoss(), optimizer)
    saver = ModelCheckpoint("run", folder, CheckpointConfig(save_checkpoint_steps=every))
    try:
        model.train(epochs, loader, [saver, Interrupt(interrupt_at)], resume=resume)
    except KeyboardInterrupt:
        assert interrupt_at is not None
    return final_state(net, optimizer)


@pytest.mark.parametrize("interrupt_at", [1, 4, 6, 9, 12], ids=lambda step: f"step {step}")
@pytest.mark.parametrize("loader", [name for name in LOADERS if name != "workers"])
def test_a_resumed_training_equals_a_straight_one(tmp_path, loader, interrupt_at):
    """At an epoch's boundary and in its middle: parameters, buffers, optimizer and random state."""
    seed()
    straight = train(tmp_path / "straight", LOADERS[loader](), OPTIMIZERS["Momentum"])
    seed()
    train(tmp_path / "broken", LOADERS[loader](), OPTIMIZERS["Momentum"], interrupt_at=interrupt_at)
    torch.manual_seed(99)  # another process would start with another random state
    np.random.seed(99)
    resumed = train(tmp_path / "broken", LOADERS[loader](), OPTIMIZERS["Momentum"], resume="must")
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_resume_from_an_older_step_repeats_what_was_lost(tmp_path, optimizer):
    """Steps since the last checkpoint are done again, with the same result."""
    make = OPTIMIZERS[optimizer]
    seed()
    straight = train(tmp_path / "straight", LOADERS["shuffled"](), make)
    seed()
    train(tmp_path / "broken", LOADERS["shuffled"](), make, interrupt_at=11, every=4)
    resumed = train(tmp_path / "broken", LOADERS["shuffled"](), make, resume="auto", every=4)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


@pytest.mark.slow
def test_a_loader_with_worker_processes_goes_on_alike(tmp_path):
    """The augmentation in the workers is the same again."""
    seed()
    straight = train(tmp_path / "straight", LOADERS["workers"](), OPTIMIZERS["Momentum"])
    seed()
    train(tmp_path / "broken", LOADERS["workers"](), OPTIMIZERS["Momentum"], interrupt_at=9)
    resumed = train(tmp_path / "broken", LOADERS["workers"](), OPTIMIZERS["Momentum"], resume="auto")
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_saving_does_not_disturb_a_training(tmp_path):
    """With checkpoints at every step, or with none: the same numbers."""
    seed()
    saved = train(tmp_path, LOADERS["shuffled"](), OPTIMIZERS["Adam"])
    seed()
    net = network()
    optimizer = OPTIMIZERS["Adam"](net)
    Model(net, CrossEntropyLoss(), optimizer).train(3, LOADERS["shuffled"]())
    assert all(torch.equal(a, b) for a, b in zip(saved, final_state(net, optimizer), strict=True))


def test_a_resumed_run_keeps_its_names_and_a_reused_callback_is_the_next_run(tmp_path):
    """Going on is not starting again."""
    saver = ModelCheckpoint("run", tmp_path, CheckpointConfig(save_checkpoint_steps=6))
    for epochs, resume in ((1, False), (2, "must"), (1, False)):
        net = network()
        Model(net, CrossEntropyLoss(), OPTIMIZERS["Adam"](net)).train(epochs, LOADERS["a list"](), saver, resume=resume)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["run-1_6.ckpt", "run-2_6.ckpt", "run_2-1_6.ckpt"]
    assert saver.latest_ckpt_file_name == str(tmp_path / "run_2-1_6.ckpt")


def test_a_finished_training_that_is_resumed_does_nothing(tmp_path):
    """A script can be started once too often."""
    for _ in range(2):
        train(tmp_path, LOADERS["a list"](), OPTIMIZERS["Adam"], resume="auto", epochs=1)
        found = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.ckpt")}
    assert len(found) == 5
    assert found == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.ckpt")}


def test_what_cannot_be_resumed_is_told(tmp_path):
    """Nothing there, or nobody who knows where to look."""
    net = network()
    model = Model(net, CrossEntropyLoss(), OPTIMIZERS["Adam"](net))
    with pytest.raises(CheckpointNotFoundError, match="prefix 'run'"):
        model.train(1, LOADERS["a list"](), ModelCheckpoint("run", tmp_path), resume="must")
    with pytest.raises(SettingError, match="^resume: found 'auto' without a ModelCheckpoint"):
        model.train(1, LOADERS["a list"](), resume="auto")
    with pytest.raises(SettingError, match="^resume: found True"):
        model.train(1, LOADERS["a list"](), ModelCheckpoint("run", tmp_path), resume=True)


def test_what_the_end_of_an_epoch_does_is_in_the_checkpoint(tmp_path):
    """An evaluation and a changed learning rate at an epoch's end: the same after a resume at that very moment."""

    class EpochEnd(Callback):
        def on_train_epoch_end(self, run_context):
            params = run_context.original_args()
            Model(params.network, CrossEntropyLoss()).eval(LOADERS["shuffled"]())
            for group in params.optimizer.param_groups:
                group["lr"] *= 0.5

    def run(folder, interrupt_at, resume):
        net = network()
        optimizer = OPTIMIZERS["Momentum"](net)
        saver = ModelCheckpoint("run", folder, CheckpointConfig(save_checkpoint_steps=6))
        with contextlib.suppress(KeyboardInterrupt):
            Model(net, CrossEntropyLoss(), optimizer).train(
                3, LOADERS["shuffled"](), [saver, EpochEnd(), Interrupt(interrupt_at)], resume=resume
            )
        return [*final_state(net, optimizer), torch.tensor(optimizer.param_groups[0]["lr"])]

    seed()
    straight = run(tmp_path / "straight", None, False)
    seed()
    run(tmp_path / "broken", 6, False)
    resumed = run(tmp_path / "broken", None, "must")
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_a_loss_with_parameters_is_part_of_the_training(tmp_path):
    """What the optimizer steps is saved, also where it is not the network's."""

    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, logits, labels):
            return nn.functional.cross_entropy(logits / self.temperature, labels)

    def run(folder, epochs, resume):
        net, loss = network(), Tempered()
        optimizer = torch.optim.Adam([*net.parameters(), *loss.parameters()], lr=0.05)
        Model(net, loss, optimizer).train(epochs, LOADERS["a list"](), ModelCheckpoint("run", folder), resume=resume)
        return [*final_state(net, optimizer), loss.temperature.detach()]

    seed()
    straight = run(tmp_path / "straight", 3, False)
    seed()
    run(tmp_path / "broken", 2, False)
    resumed = run(tmp_path / "broken", 3, "must")
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert load_checkpoint(tmp_path / "broken" / "run-3_6.ckpt", net=network()).report.unexpected == ()


def test_another_data_set_in_the_middle_of_an_epoch_is_refused(tmp_path):
    """Its batches would be others; nothing has changed when that is told."""
    train(tmp_path, LOADERS["a list"](), OPTIMIZERS["Adam"], interrupt_at=4)
    with pytest.raises(LoadError, match="found 3 batches in the data set; expected 6, since 4 of them are done"):
        train(tmp_path, LOADERS["a list"]()[:3], OPTIMIZERS["Adam"], resume="auto")


def test_persistent_workers_are_told_of(tmp_path):
    """Their random state is nobody else's to save."""
    loader = DataLoader(Noisy(), batch_size=4, num_workers=1, persistent_workers=True)
    train(tmp_path, loader, OPTIMIZERS["Adam"], interrupt_at=7)
    with pytest.warns(UserWarning, match="persistent_workers does not go on exactly"):
        train(tmp_path, loader, OPTIMIZERS["Adam"], resume="auto")


def test_two_savers_of_one_training(tmp_path):
    """Under two names each counts its own files; under one name they are refused."""
    savers = [ModelCheckpoint(name, tmp_path, CheckpointConfig(save_checkpoint_steps=4)) for name in ("a", "b")]
    net = network()
    model = Model(net, CrossEntropyLoss(), OPTIMIZERS["Adam"](net))
    model.train(1, LOADERS["a list"](), savers)
    model.train(2, LOADERS["a list"](), savers, resume="auto")
    found = sorted(path.name for path in tmp_path.glob("*.ckpt"))
    assert found == ["a-1_4.ckpt", "a-1_6.ckpt", "a-2_4.ckpt", "a-2_6.ckpt", "b-1_4.ckpt", "b-1_6.ckpt",
                     "b_2-2_4.ckpt", "b_2-2_6.ckpt"]  # fmt: skip
    with pytest.raises(SettingError, match="2 ModelCheckpoints of the prefix 'a'"):
        model.train(1, LOADERS["a list"](), [savers[0], ModelCheckpoint("a", tmp_path)])


def test_a_saver_that_is_in_two_trainings_at_once_says_so(tmp_path):
    """An inner training that shares the outer one's callback would end the outer one's run."""
    net = network()
    model = Model(net, CrossEntropyLoss(), OPTIMIZERS["Adam"](net))
    saver = ModelCheckpoint("a", tmp_path)

    class Inner(Callback):
        def on_train_step_end(self, run_context):
            model.train(1, LOADERS["a list"](), saver)

    with pytest.raises(TrainingError, match="one training at a time"):
        model.train(1, LOADERS["a list"](), [saver, Inner()])


SCRIPT = """
import sys, os, signal, torch
sys.path.insert(0, {here!r})
from test_resume import *
torch.set_num_threads(1)
class Kill(Callback):
    def step_begin(self, run_context):
        if run_context.original_args().cur_step_num - 1 == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
seed()
net = network()
optimizer = OPTIMIZERS["Momentum"](net)
saver = ModelCheckpoint("run", sys.argv[1], CheckpointConfig(save_checkpoint_steps=2))
Model(net, CrossEntropyLoss(), optimizer).train(3, LOADERS["shuffled"](), [saver, Kill()], resume="auto")
torch.save(final_state(net, optimizer), sys.argv[1] + "/final.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [6, 7], ids=["epoch boundary", "middle"])
def test_a_killed_process_goes_on_to_the_bit(tmp_path, kill_at):
    """SIGKILL, a new process, and the parameters of a training that was never killed."""

    def run(folder: Path, kill_at: int) -> int:
        script = SCRIPT.format(here=str(Path(__file__).parent))
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(folder), str(kill_at)], check=False
        ).returncode

    assert run(tmp_path / "straight", -1) == 0
    assert run(tmp_path / "killed", kill_at) == -signal.SIGKILL
    assert not os.path.exists(tmp_path / "killed" / "final.pt")
    assert run(tmp_path / "killed", -1) == 0
    straight, killed = (torch.load(tmp_path / name / "final.pt") for name in ("straight", "killed"))
    assert all(torch.equal(a, b) for a, b in zip(straight, killed, strict=True))
