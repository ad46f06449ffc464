"""`Saver`: writes one snapshot after another, at once or while the training goes on. When to save is not decided here.

``sync`` writes in the caller's thread, and returns when the file is durable. The others write in the background:
``copied`` returns when nothing depends on the live tensors any more, ``lazy`` at once, and lets the optimizers' next
step copy what is not written by then. Where steps may go unseen, what was to be lazy is copied.
"""

from __future__ import annotations

import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from milepost.checkpoint.saving import store
from milepost.engine.background import Background
from milepost.errors import SaveError, SnapshotError
from milepost.state.buffers import HostBuffers
from milepost.state.guard import Guard
from milepost.state.optimizers import changed_by_step, may_step_unseen
from milepost.state.snapshot import Snapshot
from milepost.storage.base import Stat, Storage

Mode = Literal["sync", "copied", "lazy"]

LAST_SAVE = "last_save"
"""Where a checkpoint's metadata says what the checkpoint before it cost: its own cost is known only when it is done."""


@dataclass(frozen=True)
class SaveCost:
    """What one checkpoint cost.

    Args:
        name: The file.
        mode: How it was saved: ``sync``, ``copied`` or ``lazy``.
        step_seconds: Seconds that the training stood still where it was saved, in `CheckpointManager.step` or `save`.
        hook_seconds: Seconds that it stood still before the optimizer's next step, in copies and waiting.
        background_seconds: Seconds that the save went on beside the training.
        copied_nbytes: Bytes that were copied in memory.
        file_nbytes: The file's size in bytes.
    """

    name: str
    mode: str
    step_seconds: float = 0.0
    hook_seconds: float = 0.0
    background_seconds: float = 0.0
    copied_nbytes: int = 0
    file_nbytes: int = 0

    def __str__(self) -> str:
        stalls = f"{self.step_seconds:.3f} s in the step"
        if self.mode == "sync":
            return f"{self.name}: {stalls}, {self.file_nbytes / 1e6:.1f} MB"
        return (
            f"{self.name}: {stalls}, {self.hook_seconds:.3f} s in the optimizer's hook, "
            f"{self.file_nbytes / 1e6:.1f} MB in {self.background_seconds:.3f} s beside the training"
        )


@dataclass
class SaveStats:
    """What the checkpoints of a manager cost its training so far.

    Args:
        saved: Checkpoints that are durable.
        failed: Saves that the file system refused.
        torn: Saves that were given up because a tensor was written to too early.
        skipped: Saves that were due while another was in flight, and were left out.
        total: All costs together; its name is empty.
        last: The cost of the newest checkpoint.
    """

    saved: int = 0
    failed: int = 0
    torn: int = 0
    skipped: int = 0
    total: SaveCost = field(default_factory=lambda: SaveCost("", ""))
    last: SaveCost | None = None

    def add(self, cost: SaveCost) -> None:
        """Count a checkpoint."""
        figures = {key: value + getattr(cost, key) for key, value in asdict(self.total).items() if key not in _WORDS}
        self.saved, self.total, self.last = self.saved + 1, replace(self.total, **figures), cost

    def __str__(self) -> str:
        stall = self.total.step_seconds + self.total.hook_seconds
        text = f"{self.saved} checkpoints, {stall:.3f} s of standing still"
        if self.saved:
            text += f" ({1e3 * stall / self.saved:.1f} ms each)"
        return text + "".join(
            f", {count} {name}" for name in ("failed", "torn", "skipped") if (count := getattr(self, name))
        )


_WORDS = ("name", "mode")


@dataclass
class _Flight:
    """A save that was begun in the background."""

    name: str
    mode: Mode
    guard: Guard
    step_seconds: float = 0.0
    background_seconds: float = 0.0
    stat: Stat | None = None


class Saver:
    """Writes snapshots, one at a time.

    Args:
        storage: Where to.
        mode: How, as the head of this file says.
        optimizers: Whose steps change what they hold; a lazy save copies anything else at once.
        checks: Whether to compare what a lazy save leaves in place with a copy.

    Attributes:
        is_owed: Whether a save was given up because the snapshot was torn, and none was begun since.
    """

    def __init__(self, storage: Storage, mode: Mode, optimizers: Iterable[Optimizer], *, checks: bool = False) -> None:
        self.is_owed = False
        self._storage = storage
        self._mode = mode
        self._checks = checks
        self._optimizers = list(optimizers)
        self._hooks: list[Any] = []
        self._background = Background()
        self._buffers = HostBuffers()
        self._flight: _Flight | None = None
        self._unchecked: Guard | None = None
        self._always_copied: set[str] = set()
        self._stats = SaveStats()

    @property
    def is_busy(self) -> bool:
        """Whether a save is in flight."""
        return self._background.is_busy

    @property
    def stats(self) -> SaveStats:
        """What the saves cost, those that are in flight excepted."""
        self._count()
        return replace(self._stats)

    def save(
        self,
        name: str,
        snapshot: Snapshot,
        facts: Mapping[str, Any],
        then: Callable[[Stat], object],
        *,
        began: float,
        at_once: bool = False,
    ) -> None:
        """Write a snapshot; none may be in flight.

        Args:
            name: The file's name.
            snapshot: The state.
            facts: What the file is to say of itself.
            then: Called when the file is durable, in the thread that wrote it.
            began: What `time.perf_counter` said when the training stopped for it.
            at_once: Whether to return only when the file is durable, whatever the mode.
        """
        self._count()
        self.is_owed = False
        if self._stats.last is not None:
            facts = {**facts, LAST_SAVE: asdict(self._stats.last)}
        if at_once or self._mode == "sync":
            try:
                stat = store(self._storage, name, snapshot, facts)
            except SaveError:
                self._stats.failed += 1
                raise
            self._stats.add(SaveCost(name, "sync", time.perf_counter() - began, file_nbytes=stat.nbytes))
            then(stat)
        else:
            flight = self._begin(name, snapshot, facts, then)
            flight.step_seconds = time.perf_counter() - began

    def skip(self) -> None:
        """Count a save that was due, but left out."""
        self._stats.skipped += 1

    def wait(self) -> None:
        """Return when no save is in flight."""
        flight = self._flight if self.is_busy else None
        with nullcontext() if flight is None else flight.guard.standing_still():
            self._background.wait()

    def take_failure(self) -> BaseException | None:
        """Return what the last save in the background failed with, once; a torn one is only told, and owed from now on.

        Also what `checks` has found since, as an error.
        """
        if self.is_busy:
            return None
        self._count()
        failure = self._background.take_failure()
        if self.is_owed and isinstance(failure, SnapshotError):
            warnings.warn(f"a checkpoint was given up, and the next step is saved instead. {failure}", stacklevel=3)
            failure = None
        return failure or self._written_unseen()

    def when_idle(self, act: Callable[[], object]) -> None:
        """Do something now, or when the save that is in flight has ended."""
        self._background.when_idle(act)

    def close(self) -> None:
        """Leave the optimizers alone, and let go of the memory."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._buffers = HostBuffers()

    def _begin(
        self, name: str, snapshot: Snapshot, facts: Mapping[str, Any], then: Callable[[Stat], object]
    ) -> _Flight:
        self._buffers.limit_nbytes = None  # other programs may have taken memory since, or given some back
        is_lazy = self._mode == "lazy" and not any(map(may_step_unseen, self._optimizers))
        optimizers = self._optimizers if is_lazy else ()
        changed = {id(tensor) for optimizer in optimizers for tensor in changed_by_step(optimizer)}

        def stays_live(entry: str, tensor: torch.Tensor) -> bool:
            return not is_lazy or (id(tensor) in changed and entry not in self._always_copied)

        guard = Guard(snapshot, stays_live, self._buffers, checks=is_lazy and self._checks)
        flight = self._flight = _Flight(name, "lazy" if is_lazy else "copied", guard)
        if is_lazy:
            self._watch_steps()
            self._unchecked = guard if self._checks else None

        def write() -> None:
            began = time.perf_counter()
            try:
                flight.stat = store(self._storage, name, snapshot, facts, is_background=True, before_commit=guard.check)
            finally:
                guard.close()
                flight.background_seconds = time.perf_counter() - began
            then(flight.stat)

        try:
            self._background.begin(write)
        except BaseException:
            self._flight = None
            guard.close()
            raise
        if not is_lazy:
            guard.secure()
        return flight

    def _watch_steps(self) -> None:
        """Be called before each step of each optimizer, for as long as this exists."""
        if not self._hooks:
            this = weakref.ref(self)
            process = os.getpid()

            def before_step(*_: object) -> None:
                saver = this()
                if saver is not None and os.getpid() == process:  # a forked child has no writer to wait for
                    saver._before_step()

            self._hooks = [optimizer.register_step_pre_hook(before_step) for optimizer in self._optimizers]

    def _before_step(self) -> None:
        flight = self._flight
        if flight is not None:
            flight.guard.secure()
        failure = self._written_unseen()
        if failure is not None:
            raise failure

    def _count(self) -> None:
        """Add a save that has ended to the stats, now that nothing waits for it any more."""
        flight = self._flight
        if flight is None or self.is_busy:
            return
        self._flight = None
        guard = flight.guard
        if flight.stat is not None:
            copied, hook = guard.copied_nbytes, guard.waited_seconds if flight.mode == "lazy" else 0.0
            cost = SaveCost(flight.name, flight.mode, flight.step_seconds, hook, flight.background_seconds, copied)
            self._stats.add(replace(cost, file_nbytes=flight.stat.nbytes))
        elif guard.torn is not None:
            self._stats.torn += 1
            self._always_copied.add(guard.torn)
            self.is_owed = True
        elif self._background.has_failed:
            self._stats.failed += 1

    def _written_unseen(self) -> SnapshotError | None:
        guard, self._unchecked = self._unchecked, None
        names = [] if guard is None else guard.written_unseen()
        if not names:
            return None
        return SnapshotError(
            ", ".join(f"entry {name!r}" for name in names[:10]),
            found="a write between a save and the next step that no version counter shows (.data, NumPy, foreign code)",
            expected="no change before the next step of an optimizer",
            remedy='Write with torch.no_grad() instead of .data, or save with async_save="copied".',
        )
