"""Is a save due: small frozen policies, facts in, decision out. They read no clock; the time is among the facts.

The save at the end of a training is not theirs to decide: it always happens. Policies compose: a save is due by
``EverySteps(100) | EveryEpochs()`` when it is due by either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from milepost.policy.checks import check_count, check_policy, check_positive


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come.

    Args:
        epoch: The epoch, from 1.
        step: The step within the epoch, from 1.
        global_step: Steps since the training began, over all epochs.
        now_seconds: Seconds on a monotonic clock, whose zero means nothing.
        is_epoch_end: Whether the step is the last of its epoch.
    """

    epoch: int
    step: int
    global_step: int
    now_seconds: float
    is_epoch_end: bool = False


class SavePolicy(Protocol):
    """Decides whether a step ends with a save."""

    def is_due(self, progress: Progress, last: Progress) -> bool:
        """Whether to save at `progress`, when the last save (or else the start or resume) was at `last`."""


class _Composable:
    """What composes with other policies by ``|``."""

    __slots__ = ()

    def __or__(self: SavePolicy, other: SavePolicy) -> SaveEither:
        return SaveEither(self, other)

    def __ror__(self: SavePolicy, other: SavePolicy) -> SaveEither:
        return SaveEither(other, self)


@dataclass(frozen=True, slots=True)
class SaveEither(_Composable):
    """Save when it is due by the first policy or by the second; what ``first | second`` makes.

    >>> policy = EverySteps(100) | EveryEpochs()
    >>> policy.is_due(Progress(1, 32, 32, 9.0, is_epoch_end=True), last=Progress(0, 0, 0, 0.0))
    True
    """

    first: SavePolicy
    second: SavePolicy

    def __post_init__(self) -> None:
        for policy in (self.first, self.second):
            check_policy("save", policy, "is_due")

    def is_due(self, progress: Progress, last: Progress) -> bool:
        """Whether either is due."""
        return self.first.is_due(progress, last) or self.second.is_due(progress, last)


@dataclass(frozen=True, slots=True)
class EverySteps(_Composable):
    """Save when at least `steps` steps have passed since the last save.

    >>> EverySteps(32).is_due(Progress(2, 32, 64, 9.0), last=Progress(1, 32, 32, 5.0))
    True
    """

    steps: int

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def is_due(self, progress: Progress, last: Progress) -> bool:
        """Whether the steps since `last` are enough."""
        return progress.global_step - last.global_step >= self.steps


@dataclass(frozen=True, slots=True)
class EverySeconds(_Composable):
    """Save at the first step that ends `seconds` seconds or more after the last save.

    >>> EverySeconds(5).is_due(Progress(1, 33, 33, 9.0), last=Progress(1, 32, 32, 5.0))
    False
    """

    seconds: float

    def __post_init__(self) -> None:
        check_positive("seconds", self.seconds)

    def is_due(self, progress: Progress, last: Progress) -> bool:
        """Whether the seconds since `last` are enough."""
        return progress.now_seconds - last.now_seconds >= self.seconds


@dataclass(frozen=True, slots=True)
class EveryEpochs(_Composable):
    """Save at the end of each epoch, or of every so many: of 2, 4, 6 where `epochs` is 2.

    >>> EveryEpochs(2).is_due(Progress(4, 32, 128, 9.0, is_epoch_end=True), last=Progress(2, 32, 64, 5.0))
    True
    """

    epochs: int = 1

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)

    def is_due(self, progress: Progress, last: Progress) -> bool:  # noqa: ARG002 (the protocol's facts)
        """Whether the epoch ends here, and its number is a multiple of `epochs`."""
        return progress.is_epoch_end and progress.epoch % self.epochs == 0


@dataclass(frozen=True, slots=True)
class Never(_Composable):
    """Save at no step; what remains is the save at the end."""

    def is_due(self, progress: Progress, last: Progress) -> bool:  # noqa: ARG002 (the protocol's facts)
        """Not due."""
        return False
