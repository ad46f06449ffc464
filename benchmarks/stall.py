"""What a checkpoint costs a training: wall time it loses, processor time beside it, and how long it stands still.

A network of 50 million parameters with Adam's moments (600 MB) takes steps; after the first of each round one way saves
it. What the round took beyond one without a save, a few seconds before or after, is the checkpoint's. A second loop
without saves shows how far two equal loops lie apart.

All of it twice: as torch comes, and with threads that sleep while they wait for each other. As it comes they do not,
and what a save takes from one of them the others lose too: its own processor time cannot be told from theirs.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save

from benchmarks.harness import Options, Result, Section, Table, Target, cpu_seconds
from milepost import CheckpointConfig, CheckpointManager
from milepost.moment import Moment

ROUNDS, STEPS, STEP_SECONDS = 12, 6, 0.4
NONE, AGAIN = "no save", "no save, once more"
TORCH, SAFETENSORS = "torch.save", "safetensors"
DCP, DCP_PROCESS = "DCP async_save (thread)", "DCP async_save (process)"
SYNC, COPIED, LAZY = "milepost", 'milepost, async_save="copied"', 'milepost, async_save="lazy"'


@dataclass(frozen=True)
class Stalled(Result):
    """A way's result: `seconds` is wall time lost, `cpu_seconds` processor time beyond a round without a save.

    Args:
        blocked_seconds: How long the call kept the training.
        finished_seconds: From the call to the file that is complete.
    """

    blocked_seconds: float = 0.0
    finished_seconds: float = 0.0


@dataclass(frozen=True)
class StallTable(Table):
    """Seconds lost, not ratios of times."""

    def markdown(self) -> str:
        """The table."""
        lines = ["| way | wall, s | extra CPU, s | blocked, s | finished, s |", "|---|---|---|---|---|"]
        for name, result in self.results.items():
            assert isinstance(result, Stalled)
            times = f"{result.blocked_seconds:.4f} | {result.finished_seconds:.2f}"
            lines.append(f"| {name} | {result.seconds:.2f} | {result.cpu_seconds:.2f} | {times} |")
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"


class Training:
    """Steps of some `STEP_SECONDS`, of a network that is as large as it was asked to be."""

    def __init__(self, layers: int) -> None:
        torch.manual_seed(1)
        self.net = nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(layers)], nn.BatchNorm1d(1024))
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self._batch = torch.randn(64, 1024)
        self.step()
        self._batch = torch.randn(max(64, 64 * round(STEP_SECONDS / max(1e-3, self._seconds()))), 1024)
        # The optimizer's part does not grow with the batch, so the first guess is too high.
        for _ in range(3):
            size = max(32, int(len(self._batch) * STEP_SECONDS / self._seconds()))
            self._batch = torch.randn(size, 1024)

    def _seconds(self) -> float:
        times = []
        for _ in range(3):
            began = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    def step(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        self.net(self._batch).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """What users save."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The same, flat."""
        moments = self.optimizer.state_dict()["state"].items()
        return {
            **self.net.state_dict(),
            **{f"{place}.{key}": value for place, state in moments for key, value in state.items()},
        }


Begin = Callable[[Path], Callable[[], object]]
"""Begins a save, and returns what waits for its end."""


def torch_save(training: Training) -> Begin:
    """As users do it; not durable."""

    def begin(path: Path) -> Callable[[], object]:
        torch.save(training.state(), path)
        return lambda: None

    return begin


def safetensors_save(training: Training) -> Begin:
    """As users do it; not durable."""

    def begin(path: Path) -> Callable[[], object]:
        safetensors.torch.save_file(training.tensors(), path)
        return lambda: None

    return begin


def dcp(training: Training, kind: AsyncCheckpointerType) -> Begin:
    """Torch's own way to save beside a training."""

    def begin(path: Path) -> Callable[[], object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            future: Any = async_save(
                training.state(), checkpoint_id=str(path), async_checkpointer_type=kind, no_dist=True
            )
        return lambda: future.result()

    return begin


def milepost(training: Training, folder: Path, mode: bool | Literal["copied", "lazy"]) -> Begin:
    """A manager of its own for each mode; durable."""
    config = CheckpointConfig(async_save=mode, keep_checkpoint_max=1)
    name = str(mode or "sync")
    manager = CheckpointManager(folder / name, training.net, training.optimizer, prefix=name, config=config)
    manager.start()
    count = 0

    def begin(path: Path) -> Callable[[], object]:  # noqa: ARG001 (it has a name of its own)
        nonlocal count
        count += 1
        manager.save(Moment(1, count, count))
        return manager.wait

    return begin


@dataclass
class Round:
    """What one way took in one round."""

    wall_seconds: float
    cpu_seconds: float
    blocked_seconds: float
    finished_seconds: float


def take(training: Training, begin: Begin | None, path: Path) -> Round:
    """A step, a save, and the steps behind it; what is not finished then is waited for outside of the wall time."""
    cpu, began = _cpu_seconds(), time.perf_counter()
    training.step()
    called = time.perf_counter()
    wait = begin(path) if begin is not None else lambda: None
    blocked = time.perf_counter() - called
    for _ in range(STEPS - 1):
        training.step()
    wall = time.perf_counter() - began
    wait()
    finished = time.perf_counter() - called
    return Round(wall, _cpu_seconds() - cpu, blocked, finished)


def run(options: Options) -> Section:
    """Measure all ways in turns, in processes of their own: how threads wait is settled when torch is imported."""
    (table, results), (quiet_table, quiet) = (_in_a_process(options, policy) for policy in ("", "passive"))
    return Section(
        "What a checkpoint costs a training",
        [table, quiet_table],
        _targets(results, quiet),
        "Wall and CPU are medians of what a round of steps with one checkpoint took beyond the same round without one. "
        "Milepost's files are durable, with checksums; the others' are in the page cache.",
    )


Measured = tuple[StallTable, dict[str, Stalled]]


def _in_a_process(options: Options, policy: str) -> Measured:
    before = os.environ.pop("OMP_WAIT_POLICY", None)
    try:
        if policy:
            os.environ["OMP_WAIT_POLICY"] = policy
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(
                _measured, options, "threads that wait asleep" if policy else "as torch comes"
            ).result()
    finally:
        os.environ.pop("OMP_WAIT_POLICY", None)
        if before is not None:
            os.environ["OMP_WAIT_POLICY"] = before


def _measured(options: Options, how: str) -> Measured:
    # The saves of a process of its own ask for a group, if only of one.
    rendezvous = f"file://{tempfile.mkdtemp(dir=options.folder)}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
    try:
        return _all_ways(options, how)
    finally:
        torch.distributed.destroy_process_group()


def _all_ways(options: Options, how: str) -> Measured:
    rounds = options.rounds(ROUNDS)
    training = Training(4 if options.is_quick else 48)
    ways: dict[str, Begin | None] = {
        NONE: None,
        TORCH: torch_save(training),
        SAFETENSORS: safetensors_save(training),
        DCP: dcp(training, AsyncCheckpointerType.THREAD),
        DCP_PROCESS: dcp(training, AsyncCheckpointerType.PROCESS),
        AGAIN: None,
        SYNC: milepost(training, options.folder, False),
        COPIED: milepost(training, options.folder, "copied"),
        LAZY: milepost(training, options.folder, "lazy"),
    }
    taken: dict[str, list[Round]] = {name: [] for name in ways}
    for number in range(-1, rounds):  # the first, which is not counted, warms everything up
        first = number % len(ways)
        for name in [*list(ways)[first:], *list(ways)[:first]]:
            path = options.folder / "file"
            os.sync()  # nobody pays for what another left in the page cache
            found = take(training, ways[name], path)
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
            if number >= 0:
                taken[name].append(found)
    results = {name: _result(name, taken[name], taken[NONE]) for name in ways}
    nbytes = sum(tensor.nbytes for tensor in training.tensors().values())
    step = statistics.median(each.wall_seconds for each in taken[NONE]) / STEPS
    title = f"{nbytes / 1e6:.0f} MB of state, steps of {step:.2f} s, {rounds} rounds, {how}"
    return StallTable(title, TORCH, dict(results)), results


def _result(name: str, found: list[Round], without: list[Round]) -> Stalled:
    pairs = list(zip(found, without, strict=True))
    lost = [each.wall_seconds - plain.wall_seconds for each, plain in pairs]
    return Stalled(
        name,
        statistics.median(lost),
        statistics.median(each.cpu_seconds - plain.cpu_seconds for each, plain in pairs),
        -1,
        lost,
        statistics.median(each.blocked_seconds for each in found),
        statistics.median(each.finished_seconds for each in found),
    )


def _targets(results: dict[str, Stalled], quiet: dict[str, Stalled]) -> list[Target]:
    lazy, quiet_lazy = results[LAZY], quiet[LAZY]
    noise = statistics.quantiles(map(abs, results[AGAIN].times), n=4)[2]
    return [
        Target(f"a lazy save: extra CPU over that of {name}", limit, quiet_lazy.cpu_seconds / quiet[name].cpu_seconds)
        for name, limit in ((TORCH, 0.15), (DCP, 0.1))
    ] + [
        Target("a lazy save: wall time lost, within what two loops without saves differ by", noise, lazy.seconds, "s"),
        Target("a lazy save: blocked at once", 5.0, 1e3 * lazy.blocked_seconds, "ms"),
    ]


def _cpu_seconds() -> float:
    """Processor time of this process, of children that have ended, and of those that live."""
    ticks = os.sysconf("SC_CLK_TCK")
    living = 0.0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        living += (int(fields[11]) + int(fields[12])) / ticks
    return cpu_seconds() + living
