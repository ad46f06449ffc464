"""Checks for users' own trainings. Nothing here takes part in one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milepost.errors import MilepostError
from milepost.format.checksum import Checksum
from milepost.manager import CheckpointManager
from milepost.moment import RANDOM
from milepost.progress import TrainingProgress
from milepost.state import random
from milepost.state.snapshot import Snapshot

Fingerprint = dict[str, object]
"""What decides how a training goes on after a step: a name for each part, and its checksum or value."""


def assert_resumes_exactly(make_run: Callable[[Path], object], *, stop_after: Sequence[int] | None = None) -> None:
    """Check that a training that is cut off and resumed does what one does that never stopped, to the bit.

    The training runs once to its end; and then, for each step of `stop_after`, in a new folder to that step, where it
    ends as if it were killed, and again, in another random state, to its end. After each step the batch, the random
    state, the network, the optimizer and all else that the manager saves are compared with the first run's.

    Args:
        make_run: Builds a training, its data and its network included, seeds it, and trains to the end, saving into the
            folder that it is given through a `CheckpointManager` or `ModelCheckpoint` and going on with what is there
            (``checkpoints.resume()``, ``resume="auto"``). It must be the same at each call.
        stop_after: Global steps to cut it off after; by default one in the middle.

    Raises:
        AssertionError: The first thing that differs is named: the data, the random state, a parameter, an entry of
            the optimizer; or nothing was resumed.

    Example:
        >>> from milepost import CheckpointManager
        >>> def run(folder):
        ...     torch.manual_seed(1)
        ...     net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
        ...     optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        ...     data = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2, shuffle=True)
        ...     with CheckpointManager(folder, net, optimizer) as checkpoints:
        ...         progress = checkpoints.resume()
        ...         for epoch in progress.epochs(2):
        ...             for batch in progress.steps(data):
        ...                 optimizer.zero_grad()
        ...                 net(batch).sum().backward()
        ...                 optimizer.step()
        ...                 checkpoints.step()
        >>> assert_resumes_exactly(run)
    """
    with tempfile.TemporaryDirectory(prefix="milepost-") as folder:
        _check(make_run, Path(folder), stop_after)


def _check(make_run: Callable[[Path], object], folder: Path, stop_after: Sequence[int] | None) -> None:
    straight = _run(make_run, folder / "straight")
    if not straight:
        raise AssertionError("no step was seen: call checkpoints.step(), or give Model.train a ModelCheckpoint")
    for stop in stop_after or [max(1, len(straight) // 2)]:
        before = _run(make_run, folder / str(stop), stop)
        _compare(straight, before, f"before the cut after step {stop}, although nothing was resumed")
        _scramble()
        after = _run(make_run, folder / str(stop))
        if not after or min(after) <= min(straight):
            raise AssertionError(
                f"cut off after step {stop}, the training began anew instead of going on: it must save before that "
                "step, and begin with checkpoints.resume() or resume='auto'"
            )
        _compare({step: each for step, each in straight.items() if step >= min(after)}, after, "after the resume")


class _Cut(BaseException):
    """Ends a training as a kill does; no handler of exceptions is meant to see it."""


def _run(make_run: Callable[[Path], object], folder: Path, stop: int | None = None) -> dict[int, Fingerprint]:
    seen: dict[int, Fingerprint] = {}

    def watch(manager: CheckpointManager, batch: Fingerprint) -> None:
        step = manager.progress.global_step
        seen[step] = batch | _fingerprint(manager)
        if step == stop:
            manager.close()  # a process that is killed saves nothing any more
            raise _Cut

    with _watched(watch), suppress(_Cut):
        make_run(folder)
    return seen


@contextmanager
def _watched(watch: Callable[[CheckpointManager, Fingerprint], None]) -> Iterator[None]:
    """See each batch and each step of every training inside the block."""
    draw, step = TrainingProgress.steps, CheckpointManager.step
    batch: Fingerprint = {}

    def steps(self: TrainingProgress, *args: Any) -> Iterator[Any]:
        for drawn in draw(self, *args):
            batch["the data (the batch)"] = _checksum(drawn)
            yield drawn

    def step_and_watch(self: CheckpointManager, *args: Any, **metrics: Any) -> None:
        step(self, *args, **metrics)
        figures = {f"the metric {name!r}": _checksum(value) for name, value in metrics.items()}
        watch(self, dict(batch) | figures)

    TrainingProgress.steps = steps  # type: ignore[method-assign, assignment]
    CheckpointManager.step = step_and_watch  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        TrainingProgress.steps, CheckpointManager.step = draw, step  # type: ignore[method-assign]


def _fingerprint(manager: CheckpointManager) -> Fingerprint:
    snapshot = Snapshot()
    snapshot.state[RANDOM] = snapshot.pack(random.capture(), RANDOM, "random")
    manager.take_state(snapshot)
    found: Fingerprint = {}
    for name, array in snapshot.arrays.items():
        found[f"the {array.kind} entry {name!r}"] = Checksum.of(array.content())
    for name, value in _leaves(snapshot.state, "state"):
        found[f"the value {name}"] = value
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for key, item in items:
            yield from _leaves(item, f"{path}.{key}")


def _checksum(value: Any) -> int:
    """The checksum of a tree of tensors, arrays and plain values."""
    checksum = Checksum()
    snapshot = Snapshot()
    try:
        packed = snapshot.pack(value, "value", "unknown")
    except MilepostError:
        packed = repr(type(value))
    checksum.update(repr(packed).encode())
    for array in snapshot.arrays.values():
        checksum.update(array.content())
    return checksum.value()


def _compare(expected: dict[int, Fingerprint], found: dict[int, Fingerprint], when: str) -> None:
    for step, values in found.items():
        if step not in expected:
            raise AssertionError(f"{when}: a step {step} that the straight run does not have")
        for name in [*expected[step], *values]:
            if expected[step].get(name) != values.get(name):
                raise AssertionError(f"{when}, at global step {step}: {name} differs from the straight run's")
    if when == "after the resume" and max(found) != max(expected):
        raise AssertionError(f"{when}: the last step is {max(found)}, the straight run's is {max(expected)}")


def _scramble() -> None:
    """Be in another random state, as a new process is."""
    import random as python_random

    torch.seed()
    python_random.seed()
    np.random.seed(None)
