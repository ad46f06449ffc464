"""A training that is cut off and goes on equals one that never stopped: the matrix, and the check that users get."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from milepost import CheckpointConfig, CheckpointManager
from milepost.testing import assert_resumes_exactly


class Noisy(Dataset):
    """Samples that are augmented at random by all three generators, as they are drawn."""

    def __len__(self):
        return 14

    def __getitem__(self, place):
        noise = torch.randn(4) + float(np.random.rand()) + random.random()
        return torch.full((4,), float(place)) / 14 + 0.1 * noise, place % 3


LOADERS = {
    "in order": lambda: DataLoader(Noisy(), batch_size=4),
    "shuffled": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True),
    "generator": lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "list": lambda: [(torch.randn(4, 4, generator=torch.Generator().manual_seed(i)), torch.arange(4) % 3)
                     for i in range(4)],
}  # fmt: skip
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=3),
}
SCHEDULERS = {
    "none": lambda o: None,
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "warm-up, cosine": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(o, 9)], [3]
    ),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=12, cycle_momentum=False),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
}


def run_of(loader, optimizer, scheduler, *, amp=False, every=1, mode=False):
    """A whole training, as `assert_resumes_exactly` wants it: dropout, batch statistics, augmentation, an EMA."""

    def run(folder):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
        ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        data, steps_by = LOADERS[loader](), OPTIMIZERS[optimizer](net.parameters())
        schedule = SCHEDULERS[scheduler](steps_by)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        config = CheckpointConfig(save_checkpoint_steps=every, async_save=mode)
        with CheckpointManager(
            folder, net, steps_by, scheduler=schedule, ema=ema, scaler=scaler, config=config
        ) as checkpoints:
            progress = checkpoints.resume()
            for _ in progress.epochs(3):
                for inputs, labels in progress.steps(data):

                    def closure(inputs=inputs, labels=labels):
                        steps_by.zero_grad()
                        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                            loss = nn.functional.cross_entropy(net(inputs), labels)
                        loss.backward()
                        return loss

                    loss = steps_by.step(closure)
                    ema.update_parameters(net)
                    if schedule is not None:
                        schedule.step()
                    checkpoints.step(loss=loss)
                checkpoints.report(weight=net[0].weight.sum())

    return run


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loader", LOADERS)
def test_the_matrix_goes_on_to_the_bit(loader, optimizer, scheduler):
    """Every optimizer with every scheduler and loader, cut off in the middle of the second epoch."""
    assert_resumes_exactly(run_of(loader, optimizer, scheduler), stop_after=[6])


@pytest.mark.parametrize("stop", range(2, 12))
def test_any_step_can_be_the_last(stop):
    """At the edge of an epoch, right after it, and where the last checkpoint lies some steps back."""
    assert_resumes_exactly(run_of("shuffled", "SGD", "StepLR", every=2), stop_after=[stop] if stop > 2 else [3])


@pytest.mark.parametrize("mode", [True, "lazy"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_saves_beside_the_training_go_on_to_the_bit(optimizer, mode):
    """With a scheduler, an average, a scaler, and random augmentation."""
    assert_resumes_exactly(run_of("shuffled", optimizer, "warm-up, cosine", mode=mode), stop_after=[6])


def test_mixed_precision_goes_on_to_the_bit():
    """bfloat16 autocast."""
    assert_resumes_exactly(run_of("shuffled", "AdamW", "OneCycleLR", amp=True), stop_after=[5])


@pytest.mark.slow
def test_augmentation_in_worker_processes_goes_on_to_the_bit(monkeypatch):
    """The workers' random states are brought back by drawing again what was done."""
    loader = lambda: DataLoader(Noisy(), batch_size=4, shuffle=True, num_workers=2)  # noqa: E731
    monkeypatch.setitem(LOADERS, "workers", loader)
    assert_resumes_exactly(run_of("workers", "SGD", "none"), stop_after=[6])


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata asks torch for it
def test_torchdata_s_loader_goes_on_to_the_bit(monkeypatch):
    """It keeps its own place, which the checkpoint holds."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    monkeypatch.setitem(LOADERS, "torchdata", lambda: stateful(Noisy(), batch_size=4, shuffle=True))
    assert_resumes_exactly(run_of("torchdata", "SGD", "none"), stop_after=[3, 4, 5, 6])


def broken(kind):
    """A training that forgets something."""

    def run(folder):
        torch.manual_seed(1)
        net = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
        scheduler = lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        given = torch.optim.Adam(net.parameters()) if kind == "optimizer" else optimizer
        data = [torch.full((2, 2), float(i)) for i in range(6)]
        if kind == "data":
            data = sorted(data, key=lambda _: np.random.rand())
        with CheckpointManager(folder, net, given) as checkpoints:
            progress = checkpoints.start() if kind == "resume" else checkpoints.resume()
            started = progress.where is None
            for _ in progress.epochs(1):
                for batch in progress.steps(data):
                    optimizer.zero_grad()
                    net(batch).sum().backward()
                    optimizer.step()
                    if kind == "scheduler":
                        scheduler.step()
                    checkpoints.step()
                    if kind == "random state" and progress.step == 5 and started:
                        torch.rand(1)

    return run


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("data", "the data"),
        ("optimizer", "the parameter entry 'weight' differs"),
        ("scheduler", "the .* differs"),
        ("random state", "random entry 'random.torch' differs"),
        ("resume", "began anew"),
    ],
)
def test_what_is_forgotten_is_named(kind, message):
    """The check can fail, and says where to look."""
    np.random.seed(0)
    with pytest.raises(AssertionError, match=message):
        assert_resumes_exactly(broken(kind), stop_after=[3])


@pytest.mark.parametrize("end", [SystemExit, ZeroDivisionError], ids=["a signal", "an exception"])
@pytest.mark.filterwarnings("ignore:step 4 is saved within the lines", "ignore:SIGTERM ends the training")
def test_an_epochs_end_that_was_cut_off_is_done_after_the_resume(tmp_path, end):
    """A breakpoint after an epoch's last batch, but before the body's last lines, leads back to these lines."""

    def train(end=None):
        net = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        scheduler = lr_scheduler.StepLR(optimizer, 1)
        config = CheckpointConfig(save_checkpoint_steps=100, save_on_signal=True, exception_save=True)
        with CheckpointManager(tmp_path, net, optimizer, scheduler=scheduler, config=config) as checkpoints:
            progress = checkpoints.resume()
            for _ in progress.epochs(3):
                for _ in progress.steps([1, 2]):
                    optimizer.step()
                    if end is SystemExit and progress.global_step == 4:
                        os.kill(os.getpid(), signal.SIGTERM)
                    checkpoints.step()
                if end is ZeroDivisionError and progress.global_step == 4:
                    raise ZeroDivisionError
                scheduler.step()
        return progress.global_step, scheduler.last_epoch

    with pytest.raises(end):
        train(end)
    assert train() == (6, 3)
