"""`CheckpointConfig`: the settings of saving and keeping, checked and turned into policies. It saves nothing itself."""

from __future__ import annotations

import numbers
import sys
import warnings
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from milepost.errors import SettingError, SettingTypeError
from milepost.policy.keep import KeepAll, KeepLast, KeepOnePer, KeepPolicy
from milepost.policy.save import EverySeconds, EverySteps, Never, SavePolicy

_REMEDY = "Give a number above 0, or None to cancel the policy."

_Number = TypeVar("_Number", int, float)


class _Default(int):
    """A default, which gives way to what the user sets; the signature still shows its value."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """When checkpoints are saved, and which of them are kept.

    There are two ways to save and two ways to keep, and of each pair one is in force: by iteration or by time.

    ==================================  =======  =================================================
    field                               default  in force
    ==================================  =======  =================================================
    ``save_checkpoint_steps``           1        save every so many steps
    ``save_checkpoint_seconds``         0        save every so many seconds
    ``keep_checkpoint_max``             5        keep the newest so many
    ``keep_checkpoint_per_n_minutes``   0        keep the last of each so many minutes, and the newest
    ==================================  =======  =================================================

    - None or 0 cancels a policy. With no way to save, only the last step of a training is saved; with no way to keep,
      every checkpoint is kept. To cancel all four is refused.
    - A default gives way: to set only ``save_checkpoint_seconds`` saves by time, to set only
      ``keep_checkpoint_per_n_minutes`` keeps by time.
    - Where both of a pair are set, the iteration policy is in force, and a warning names the field that is ignored.

    Afterwards the fields say what is in force: a policy that was cancelled, gave way or is ignored reads 0.

    Args:
        save_checkpoint_steps: Steps from one save to the next, over all epochs. An int.
        save_checkpoint_seconds: Seconds from one save to the next. An int or a float.
        keep_checkpoint_max: How many checkpoints of a run to keep. An int.
        keep_checkpoint_per_n_minutes: Minutes that leave one checkpoint behind; `milepost.policy.keep.KeepOnePer` has
            the exact rule. An int or a float.
        on_error: What a save that the file system refuses does: ``"raise"`` a `SaveError`, or ``"warn"``, once per
            cause, and let the training go on and try again when the next save is due.
        exception_save: Whether an exception in the training saves the last step that was finished, unless it is saved,
            as ``<prefix>-<epoch>_<step>_breakpoint.ckpt``.
        save_on_signal: Whether SIGTERM, SIGINT and SIGUSR1 end the training cleanly after the step that they come in,
            which is saved under such a name too. A second signal is obeyed at once.

    Raises:
        SettingTypeError: A field of the wrong type.
        SettingError: A negative or endless field, or all four cancelled.

    Example:
        >>> CheckpointConfig(save_checkpoint_steps=32, keep_checkpoint_max=10).save_policy()
        EverySteps(steps=32)
        >>> CheckpointConfig(save_checkpoint_seconds=60)  # doctest: +NORMALIZE_WHITESPACE
        CheckpointConfig(save_checkpoint_steps=0, save_checkpoint_seconds=60, keep_checkpoint_max=5,
                         keep_checkpoint_per_n_minutes=0, on_error='raise', exception_save=False, save_on_signal=False)
        >>> CheckpointConfig(save_checkpoint_steps=None).save_policy()
        Never()
        >>> CheckpointConfig(keep_checkpoint_max=None).keep_policy()
        KeepAll()
    """

    save_checkpoint_steps: int | None = field(default=_Default(1))
    save_checkpoint_seconds: float | None = field(default=_Default(0))
    keep_checkpoint_max: int | None = field(default=_Default(5))
    keep_checkpoint_per_n_minutes: float | None = field(default=_Default(0))
    on_error: Literal["raise", "warn"] = field(default="raise", kw_only=True)
    exception_save: bool = field(default=False, kw_only=True)
    save_on_signal: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        steps = _count("save_checkpoint_steps", self.save_checkpoint_steps)
        seconds = _duration("save_checkpoint_seconds", self.save_checkpoint_seconds)
        count = _count("keep_checkpoint_max", self.keep_checkpoint_max)
        minutes = _duration("keep_checkpoint_per_n_minutes", self.keep_checkpoint_per_n_minutes)
        if not (steps or seconds or count or minutes):
            raise SettingError(
                "CheckpointConfig",
                found="save_checkpoint_steps, save_checkpoint_seconds, keep_checkpoint_max and "
                "keep_checkpoint_per_n_minutes all cancelled",
                expected="at least one policy",
                remedy="Set one of them, or leave the ModelCheckpoint out.",
            )
        if self.on_error not in ("raise", "warn"):
            raise SettingError(
                "on_error", found=repr(self.on_error), expected='"raise" or "warn"', remedy='Give "warn" to train on.'
            )
        for name in ("exception_save", "save_on_signal"):
            if not isinstance(getattr(self, name), bool):
                raise SettingTypeError(name, found=repr(getattr(self, name)), expected="a bool", remedy="Give True.")
        self._put_in_force("save_checkpoint_steps", steps, "save_checkpoint_seconds", seconds)
        self._put_in_force("keep_checkpoint_max", count, "keep_checkpoint_per_n_minutes", minutes)

    def save_policy(self) -> SavePolicy:
        """Return the policy that says when a save is due."""
        if self.save_checkpoint_steps:
            return EverySteps(self.save_checkpoint_steps)
        return EverySeconds(self.save_checkpoint_seconds) if self.save_checkpoint_seconds else Never()

    def keep_policy(self) -> KeepPolicy:
        """Return the policy that says which checkpoints have expired."""
        if self.keep_checkpoint_max:
            return KeepLast(self.keep_checkpoint_max)
        return KeepOnePer(self.keep_checkpoint_per_n_minutes) if self.keep_checkpoint_per_n_minutes else KeepAll()

    def _put_in_force(self, by_iteration: str, iteration: int, by_time: str, time: float) -> None:
        if iteration and time and isinstance(iteration, _Default):
            iteration = 0
        elif iteration and time:
            message = f"{by_time}={time} is ignored: {by_iteration}={iteration} is set too, and goes before it."
            warnings.warn(message, UserWarning, stacklevel=4)  # past here, __post_init__ and __init__: the user's line
            time = 0
        object.__setattr__(self, by_iteration, iteration)
        object.__setattr__(self, by_time, time)


def _count(name: str, value: object, expected: str = "an int") -> int:
    """Return a count, 0 where it is cancelled; a default stays a default."""
    if value is None or isinstance(value, _Default):
        return value or 0
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise SettingTypeError(name, found=f"{value!r}", expected=expected, remedy=_REMEDY)
    return _in_range(name, int(value))


def _duration(name: str, value: object) -> float:
    """Return a duration, 0 where it is cancelled; a default stays a default."""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return _in_range(name, float(value))
    return _count(name, value, expected="an int or a float")


def _in_range(name: str, number: _Number) -> _Number:
    if not 0 <= number <= sys.float_info.max:
        raise SettingError(name, found=f"{number!r}", expected="a finite number from 0", remedy=_REMEDY)
    return number
