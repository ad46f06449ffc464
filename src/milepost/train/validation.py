"""When a training is to be evaluated in its middle. The evaluation itself is `Model`'s."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from milepost.errors import SettingTypeError
from milepost.policy.save import EverySteps
from milepost.train.lifecycle import whole_number


class Validation:
    """A data set, and when to evaluate on it.

    Args:
        dataset: Gives its batches anew for every evaluation.
        frequency: Every so many epochs; or the numbers of the epochs; or every so many steps.
    """

    def __init__(self, dataset: Iterable[Any], frequency: int | Sequence[int] | EverySteps) -> None:
        self.dataset = dataset
        self._steps = frequency.steps if isinstance(frequency, EverySteps) else None
        self._epochs: frozenset[int] | None = None
        self._every = 1
        if isinstance(frequency, list | tuple | range):
            self._epochs = frozenset(whole_number("valid_frequency", epoch, least=1) for epoch in frequency)
        elif isinstance(frequency, int):
            self._every = whole_number("valid_frequency", frequency, least=1)
        elif not isinstance(frequency, EverySteps):
            raise SettingTypeError(
                "valid_frequency",
                found=repr(frequency),
                expected="a number of epochs, the numbers of the epochs, or EverySteps(n)",
                remedy="Give 1 to evaluate after every epoch.",
            )

    def is_due(self, epoch: int, global_step: int, *, is_epoch_end: bool) -> bool:
        """Whether to evaluate after this step."""
        if self._steps is not None:
            return global_step % self._steps == 0
        if not is_epoch_end:
            return False
        return epoch % self._every == 0 if self._epochs is None else epoch in self._epochs
