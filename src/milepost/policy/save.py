"""Is a save due: small frozen policies, facts in, decision out. They read no clock; the time is among the facts.

The save at the end of a training is not theirs to decide: it always happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from milepost.policy.positive import check_positive


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come.

    Args:
        epoch: The epoch, from 1.
        step: The step within the epoch, from 1.
        global_step: Steps since the training began, over all epochs.
        now_seconds: Seconds on a monotonic clock, whose zero means nothing.
    """

    epoch: int
    step: int
    global_step: int
    now_seconds: float


class SavePolicy(Protocol):
    """Decides whether a step ends with a save."""

    def is_due(self, progress: Progress, last: Progress) -> bool:
        """Whether to save at `progress`, when the last save (or else the start or resume) was at `last`."""


@dataclass(frozen=True, slots=True)
class EverySteps:
    """Save when at least `steps` steps have passed since the last save.

    >>> EverySteps(32).is_due(Progress(2, 32, 64, 9.0), last=Progress(1, 32, 32, 5.0))
    True
    """

    steps: int

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)

    def is_due(self, progress: Progress, last: Progress) -> bool:
        """Whether the steps since `last` are enough."""
        return progress.global_step - last.global_step >= self.steps


@dataclass(frozen=True, slots=True)
class EverySeconds:
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
class Never:
    """Save at no step; what remains is the save at the end."""

    def is_due(self, progress: Progress, last: Progress) -> bool:  # noqa: ARG002 (the protocol's facts)
        """Not due."""
        return False
