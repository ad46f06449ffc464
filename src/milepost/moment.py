"""Where a training stands: a `Moment`, to be saved, and `Resumed`, to go on from. Files and policies are elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from milepost.catalog.facts import metrics_to_json
from milepost.catalog.ledger import Report, decode, encode
from milepost.errors import DamagedCheckpointError, LoadError, SettingTypeError
from milepost.parameters import Parameters
from milepost.state import random
from milepost.state.snapshot import Snapshot

RANDOM = "random"
"""Where a checkpoint keeps the random state of its moment ..."""
EPOCH_START = "random_at_epoch_start"
"""... and that of its epoch's start, from which the order of the epoch's data follows ..."""
LOADER = "loader"
"""... and what a loader that keeps its own place says of it."""


@dataclass(frozen=True)
class Moment:
    """A training between two steps.

    Args:
        epoch: Counted from 1.
        step: Steps done in this epoch.
        global_step: Steps done in all epochs.
        steps_per_epoch: Steps of a whole epoch, where that is known.
        metrics: Figures of this step, e.g. the loss; scalars or one-element tensors.
        loader: Where the batches come from; its generators' state is saved.
        epoch_start: What `milepost.state.random.capture` returned just before the epoch's first batch was drawn.
        inputs: The network's inputs of this step, an example for its graph.
        is_epoch_done: Whether everything that belongs to the epoch has happened, what follows its last step too; None
            where nothing is known to follow it.
        history: What was reported so far, oldest first.
        random: What `milepost.state.random.capture` returned at this moment; None to take what it is at the save.
    """

    epoch: int
    step: int
    global_step: int
    steps_per_epoch: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    loader: object = None
    epoch_start: Mapping[str, Any] | None = None
    inputs: tuple[torch.Tensor, ...] = ()
    is_epoch_done: bool | None = None
    history: tuple[Report, ...] = ()
    random: Mapping[str, Any] | None = None

    def figures(self) -> dict[str, float]:
        """The figures of this moment, those that were reported for it too; the later of two counts."""
        metrics = floats(self.metrics)
        for report in self.history:
            if report.global_step == self.global_step:
                metrics |= report.metrics
        return metrics

    def take(self, snapshot: Snapshot, *, has_place: bool) -> None:
        """Gather the random states that what follows depends on, and the loader's place in its data.

        Args:
            snapshot: Where to.
            has_place: Whether the loader keeps its place, and still is where this moment was.
        """
        if has_place:
            place = self.loader.state_dict()  # type: ignore[attr-defined]
            snapshot.state[LOADER] = snapshot.pack(place, LOADER, "random")
        now = random.capture(self.loader) if self.random is None else dict(self.random)
        snapshot.state[RANDOM] = snapshot.pack(now, RANDOM, "random")
        if self.epoch_start is not None:
            snapshot.state[EPOCH_START] = snapshot.pack(dict(self.epoch_start), EPOCH_START, "random")

    def facts(self, created: float, metrics: Mapping[str, float]) -> dict[str, Any]:
        """What a checkpoint says of this moment, as metadata.

        Args:
            created: Unix seconds.
            metrics: Its `figures`.
        """
        return {
            "epoch": self.epoch,
            "step": self.step,
            "global_step": self.global_step,
            "steps_per_epoch": self.steps_per_epoch,
            "epoch_done": self.step == self.steps_per_epoch if self.is_epoch_done is None else self.is_epoch_done,
            "time": created,
            "metrics": metrics_to_json(metrics),
            "history": encode(self.history),
        }


class Resumed:
    """A training that goes on: where it stands, and the random states that make what follows the same.

    Attributes:
        where: The checkpoint it goes on from.
        epoch: The epoch to go on with, counted from 1.
        step: Steps of that epoch that are done; 0 at its start.
        global_step: Steps done in all epochs.
        steps_per_epoch: Steps of a whole epoch, where that was known.
        history: What was reported so far, oldest first.
    """

    def __init__(self, parameters: Parameters) -> None:
        facts = parameters.metadata
        self.where = parameters.where
        if not {"epoch", "step", "global_step"} <= set(facts):
            raise LoadError(
                self.where,
                found="a checkpoint that does not say where the training stood",
                expected="one that was saved while training",
                remedy="Take its weights with load_checkpoint(path, net=...), and train from the start.",
            )
        epoch, step, self.global_step = (self._count(facts, key) for key in ("epoch", "step", "global_step"))
        self.steps_per_epoch = facts.get("steps_per_epoch")
        is_epoch_done = facts.get("epoch_done", step == self.steps_per_epoch) is True
        self.epoch = max(1, epoch) + is_epoch_done
        self.step = 0 if is_epoch_done else step
        self._random = parameters.state(RANDOM)
        self._epoch_start = parameters.state(EPOCH_START)
        self.loader_state = parameters.state(LOADER)
        self.history = decode(facts.get("history", []), f"{self.where}, metadata")

    def check_epoch(self, steps_per_epoch: int | None) -> None:
        """Refuse to go on within an epoch of another length: its batches would be others."""
        known = self.steps_per_epoch is not None and steps_per_epoch is not None
        if self.step and known and self.steps_per_epoch != steps_per_epoch:
            raise LoadError(
                self.where,
                found=f"{steps_per_epoch} batches in the data set",
                expected=f"{self.steps_per_epoch}, since {self.step} of them are done",
                remedy="Give the data set, and the batch size, that the training began with.",
            )

    def restore_random(self, loader: object) -> None:
        """Set the random state of the moment of the save, for loops that draw no batches from `TrainingProgress`."""
        self._restore(self._random, loader)

    def restore_before_batches(self, loader: object) -> None:
        """Set the random state in which the epoch's batches began, so that they come in the same order again."""
        if getattr(loader, "persistent_workers", False) and self.epoch > 1:
            warnings.warn(
                f"{self.where}: a DataLoader with persistent_workers does not go on exactly, because the random state "
                "of its workers is theirs alone; the training goes on with other augmentations.",
                stacklevel=2,
            )
        self._restore(self._epoch_start if self.step else self._random, loader)

    def restore_after_dropped(self, loader: object) -> None:
        """Set the random state of the moment of the save, after the batches that were done then are dropped."""
        if self.step:
            self._restore(self._random, loader)

    @property
    def is_drawn(self) -> bool:
        """Whether the epoch's batches were drawn from `TrainingProgress.steps`."""
        return self._epoch_start is not None

    def restore_loader(self, loader: Any) -> None:
        """Bring a loader that keeps its own place back to it."""
        try:
            loader.load_state_dict(self.loader_state)
        except Exception as error:
            raise LoadError(
                self.where,
                found=f"a place in the data that the {type(loader).__name__} does not take ({error})",
                expected="the loader that was saved, built as it was then",
                remedy="Give the data set, and the batch size, that the training began with.",
            ) from error

    def _restore(self, state: dict[str, Any] | None, loader: object) -> None:
        try:
            if state is not None:
                random.restore(state, loader)
        except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise self._damaged(f"a random state that cannot be set ({error})") from error

    def _count(self, facts: Mapping[str, Any], key: str) -> int:
        value = facts[key]
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._damaged(f"{value!r:.80} as its {key}")
        return value

    def _damaged(self, found: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            f"{self.where}, metadata",
            found=found,
            expected="what docs/format.md describes",
            remedy="It was written by something else; take its weights with load_checkpoint(path, net=...).",
        )


def detached(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without their graphs, which would keep a step's memory."""
    return {key: value.detach() if isinstance(value, torch.Tensor) else value for key, value in metrics.items()}


def floats(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as floats, or `SettingTypeError` with the name of one that is no number."""
    figures = {}
    for name, value in detached(metrics).items():
        try:
            figures[name] = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SettingTypeError(
                f"the metric {name!r}",
                found=f"{value!r:.80}",
                expected="a number, or a tensor with one element",
                remedy="Reduce it first, e.g. with mean(), or leave it out.",
            ) from error
    return figures
