"""A training whose every checkpoint can be told from every other: at step n each weight is n. And its judge."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.faults.system_calls import SystemCalls, kill_at, write
from torch import nn

from milepost.catalog.names import parse
from milepost.checkpoint.loading import load_checkpoint, open_checkpoint
from milepost.checkpoint.saving import save_checkpoint, store
from milepost.config import CheckpointConfig
from milepost.manager import CheckpointManager
from milepost.moment import Moment
from milepost.state.modules import take
from milepost.state.snapshot import Snapshot
from milepost.storage import local, streams
from milepost.storage.memory import MemoryStorage

PREFIX = "net"
KEEP = 3
OVERWRITTEN = "last.ckpt"
"""A file that is saved over and over by `save_checkpoint`."""

# The first optimizer of a process imports much of torch, a second's work; those forked from it find that done.
torch.optim.SGD([torch.zeros(1)], lr=0.0)


class InPlace(streams.PastCache):
    """From where it lies, also where a save is waited for: so it meets the faults of both ways."""

    def __init__(self, descriptor: int, *, is_in_place: bool) -> None:
        super().__init__(descriptor, is_in_place=True)


def write_past_the_cache() -> None:
    """Let every file of this process be written as large ones are: reserved, from aligned memory, by other threads."""
    local.PastCache = InPlace  # type: ignore[misc]
    local.DIRECT_NBYTES = local.RESERVE_NBYTES = 0
    streams.BUFFER_NBYTES = 48 << 10
    streams.IN_PLACE_NBYTES, streams.MEMORY_ALIGNMENTS = 32 << 10, (512,)


def past_the_cache(target: Callable[..., None], *arguments: Any) -> None:
    """Do something in a process of its own, writing as large files are written."""
    write_past_the_cache()
    target(*arguments)


def let_lie_as_in_a_file(net: nn.Module) -> None:
    """Give the parameters places in memory from which a disk takes them, up to a multiple of 512."""
    snapshot = Snapshot()
    take(net, snapshot)
    storage = MemoryStorage()
    store(storage, "a.ckpt", snapshot, {})
    with open_checkpoint(storage, "a.ckpt") as opened:
        for name, parameter in net.named_parameters():
            room = torch.empty(parameter.nbytes + 512, dtype=torch.uint8)
            begin = (opened.index.entries[name].extents[0].offset - room.data_ptr()) % 512
            place = room[begin : begin + parameter.nbytes].view(parameter.dtype).view(parameter.shape)
            parameter.data = place.copy_(parameter.data)


class Training:
    """A network of 100 KB, its optimizer and their manager."""

    def __init__(self, folder: Path, **settings: object) -> None:
        torch.set_num_threads(1)
        self.folder = folder
        self.net = nn.Sequential(nn.Linear(100, 120), nn.Linear(120, 100), nn.BatchNorm1d(100))
        let_lie_as_in_a_file(self.net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.0, momentum=0.9)
        self.take_step(0)
        config = CheckpointConfig(**{"keep_checkpoint_max": KEEP, **settings})
        self.manager = CheckpointManager(folder, self.net, self.optimizer, prefix=PREFIX, config=config)

    def resume(self) -> int:
        """Go on with the newest checkpoint, and return its step; 0 for a fresh start."""
        return self.manager.resume("auto").global_step

    def take_step(self, step: int) -> None:
        """Make every weight and every momentum `step`."""
        for parameter in self.net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.fill_(step)
                self.optimizer.state[parameter]["momentum_buffer"].fill_(step)

    def save(self, step: int) -> Path:
        """Take a step and save it through the manager."""
        self.take_step(step)
        return self.manager.save(Moment(1, step, step))

    def overwrite(self, step: int) -> Path:
        """Take a step and save it over the last one."""
        self.take_step(step)
        return save_checkpoint(self.net, self.folder / OVERWRITTEN, {"step": step})


@dataclass
class Report:
    """What a training says of itself, so that it survives a kill: a line of text for each thing that is done."""

    path: Path
    resumed: list[int] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    overwritten: list[int] = field(default_factory=list)

    def add(self, kind: str, step: int) -> None:
        """Say that something is done."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        write(descriptor, f"{kind} {step}\n".encode())
        os.close(descriptor)

    def read(self) -> Report:
        """Return what was said so far."""
        report = Report(self.path)
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            kind, step = line.split()
            getattr(report, kind).append(int(step))
        return report


def go_on_until_killed(folder: Path, report: Path, count: int = 1_000_000) -> None:
    """Resume, and save step after step both ways, saying so each time."""
    said = Report(report)
    training = Training(folder)
    first = training.resume()
    said.add("resumed", first)
    for step in range(first + 1, first + 1 + count):
        training.save(step)
        said.add("saved", step)
        training.overwrite(step)
        said.add("overwritten", step)


def do_one_thing(folder: Path, report: Path, act: str, number: int, moment: str) -> None:
    """Resume and save once more; die at call `number` of one act: ``resume``, ``save`` or ``overwrite``."""
    said = Report(report)
    training = Training(folder)

    def watched(name: str) -> SystemCalls | nullcontext[None]:
        return SystemCalls(kill_at(number, moment)) if act == name else nullcontext()

    with watched("resume"):
        step = training.resume()
    said.add("resumed", step)
    with watched("save"):
        training.save(step + 1)
    said.add("saved", step + 1)
    with watched("overwrite"):
        training.overwrite(step + 1)
    said.add("overwritten", step + 1)


def step_of(path: Path) -> int:
    """Return the step a file was saved at; every byte of it is checked, and that it holds that step's weights alone."""
    with closing(load_checkpoint(path)) as parameters:
        parameters.verify()
        is_training = "global_step" in parameters.metadata
        step = int(parameters.metadata["global_step"] if is_training else parameters["step"])
        for name in ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias"):
            assert bool((parameters[name] == step).all()), f"{path}: {name} is not of step {step}"
        return step


def judge(folder: Path, said: Report) -> None:
    """Raise `AssertionError` unless every file is complete, and every save that was reported is there or expired."""
    present = sorted(step_of(path) for path in folder.glob("*.ckpt") if parse(path.name, PREFIX))
    newest = max(present, default=0)
    reported = max(said.saved, default=0)
    assert newest >= reported, f"step {reported} was reported as saved, the newest there is {newest}"
    assert newest <= max(reported, *said.resumed, 0) + 1, f"step {newest} was never begun"
    # A kill after a save and before the removal leaves one more, which the next removal takes along.
    assert present == list(range(newest - len(present) + 1, newest + 1)), f"{present} are there: one is missing"
    assert len(present) >= min(newest, KEEP), f"{present} are there: some were removed too early"
    if said.overwritten:
        assert step_of(folder / OVERWRITTEN) >= max(said.overwritten)
    elif (folder / OVERWRITTEN).exists():
        step_of(folder / OVERWRITTEN)
