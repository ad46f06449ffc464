"""`CheckpointConfig`: the settings of saving and keeping, checked and turned into policies. It saves nothing itself."""

from __future__ import annotations

import numbers
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from milepost.errors import SettingError, SettingTypeError
from milepost.format.containers import Packaging
from milepost.format.dialect import check_dialect
from milepost.format.encryption import DEFAULT as DEFAULT_MODE
from milepost.policy.checks import check_count, check_policy
from milepost.policy.keep import KeepAll, KeepBest, KeepEither, KeepLast, KeepOnePer, KeepPolicy
from milepost.policy.save import EverySeconds, EverySteps, Never, SavePolicy

APPENDED = ("epoch_num", "step_num")
"""What `append_info` can name; MindSpore's names."""

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

    - What these four cannot say, a policy in `save` or in `keep` says, which stands in for its pair. Policies compose:
      ``save=EverySteps(100) | EveryEpochs()``, ``keep=KeepLast(5) | KeepEvery(1000)``; `milepost.policy.save` and
      `milepost.policy.keep` have them.
    - With a `monitor`, the checkpoints that are the best by it are kept too, beside what is kept anyway.

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
            as ``<prefix>-<epoch>_<step>_breakpoint.ckpt``; not if an optimizer has begun the next one.
        save_on_signal: Whether SIGTERM, SIGINT and SIGUSR1 end the training cleanly after the step that they come in,
            which is saved under such a name too. A second signal is obeyed at once.
        async_save: How a save goes together with the training that goes on; `docs/saving.md` has the choice. False: the
            training stands still until the file is durable. True or ``"copied"``: until the state is copied, and the
            file is written in the background. ``"lazy"``: not even that; parameters and optimizer state are written
            from where they are, and what is not written when the optimizer's next step comes is copied just before.
            For trainings that write to parameters past torch's version counters (``.data``, NumPy) nowhere but in the
            optimizer's step.
        when_busy: What a save that is due while another is in flight does: ``"wait"`` for that one; or ``"skip"``, it
            is left out, with a warning for the first, and `CheckpointManager.stats` counts it.
        check_snapshots: Whether to compare each lazy save with a copy, and raise a `SnapshotError` with the name of a
            tensor that was written to unseen. For a trial, because it costs what a lazy save spares.
        monitor: The metric that says which checkpoints are the best, or None for no such choice.
        mode: Whether the best has the highest value, ``"max"``, or the lowest, ``"min"``.
        keep_best: How many of the best to keep. An int from 1.
        append_info: What each checkpoint holds beside the training's state, under MindSpore's names: ``"epoch_num"``,
            ``"step_num"`` (over all epochs), and at most one dict of further values, as `save_checkpoint` appends them.
        enc_key: The key to encrypt each checkpoint with, as `save_checkpoint`; whoever goes on with the training needs
            it too.
        enc_mode: How they are encrypted.
        crc_check: Whether each has the CRC-32 that MindSpore checks.
        dialect: Another framework's names and shapes to write, ``"mindspore"``, so that it loads the checkpoints by
            itself; or those of a ResNet of its model zoos, ``"mindspore-r0.6"`` and ``"mindspore-mindcv"``. Milepost
            reads them back as if nothing were different (``docs/mindspore.md``).
        save: The policy that says when a save is due, in place of the two settings.
        keep: The policy that says which checkpoints are kept, in place of the two settings.

    Raises:
        SettingTypeError: A field of the wrong type.
        SettingError: A negative or endless field, all four cancelled, a policy beside a setting of its pair, or what
            means nothing without another: `mode` or `keep_best` without a `monitor`, `check_snapshots` or `when_busy`
            without `async_save`, `enc_mode` without `enc_key`.

    Example:
        >>> CheckpointConfig(save_checkpoint_steps=32, keep_checkpoint_max=10).save_policy()
        EverySteps(steps=32)
        >>> CheckpointConfig(save_checkpoint_seconds=60)  # doctest: +NORMALIZE_WHITESPACE
        CheckpointConfig(save_checkpoint_steps=0, save_checkpoint_seconds=60, keep_checkpoint_max=5,
                         keep_checkpoint_per_n_minutes=0, on_error='raise', exception_save=False, save_on_signal=False,
                         async_save=False, when_busy='wait', check_snapshots=False,
                         monitor=None, mode='max', keep_best=1, append_info=None, enc_mode='AES-GCM', crc_check=False,
                         dialect=None, save=None, keep=None)
        >>> CheckpointConfig(save_checkpoint_steps=None).save_policy()
        Never()
        >>> CheckpointConfig(keep_checkpoint_max=None).keep_policy()
        KeepAll()
        >>> CheckpointConfig(monitor="accuracy", keep_best=3).best_policy()
        KeepBest(monitor='accuracy', mode='max', count=3)
        >>> from milepost.policy.save import EveryEpochs
        >>> CheckpointConfig(save=EveryEpochs()).save_policy()
        EveryEpochs(epochs=1)
    """

    save_checkpoint_steps: int | None = field(default=_Default(1))
    save_checkpoint_seconds: float | None = field(default=_Default(0))
    keep_checkpoint_max: int | None = field(default=_Default(5))
    keep_checkpoint_per_n_minutes: float | None = field(default=_Default(0))
    on_error: Literal["raise", "warn"] = field(default="raise", kw_only=True)
    exception_save: bool = field(default=False, kw_only=True)
    save_on_signal: bool = field(default=False, kw_only=True)
    async_save: bool | Literal["copied", "lazy"] = field(default=False, kw_only=True)
    when_busy: Literal["wait", "skip"] = field(default="wait", kw_only=True)
    check_snapshots: bool = field(default=False, kw_only=True)
    monitor: str | None = field(default=None, kw_only=True)
    mode: Literal["max", "min"] = field(default="max", kw_only=True)
    keep_best: int = field(default=1, kw_only=True)
    append_info: Sequence[str | Mapping[str, Any]] | None = field(default=None, kw_only=True)
    enc_key: bytes | None = field(default=None, kw_only=True, repr=False)
    enc_mode: str = field(default=DEFAULT_MODE, kw_only=True)
    crc_check: bool = field(default=False, kw_only=True)
    dialect: str | None = field(default=None, kw_only=True)
    save: SavePolicy | None = field(default=None, kw_only=True)
    keep: KeepPolicy | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        steps = _count("save_checkpoint_steps", self.save_checkpoint_steps)
        seconds = _duration("save_checkpoint_seconds", self.save_checkpoint_seconds)
        count = _count("keep_checkpoint_max", self.keep_checkpoint_max)
        minutes = _duration("keep_checkpoint_per_n_minutes", self.keep_checkpoint_per_n_minutes)
        if not (steps or seconds or count or minutes) and self.save is None and self.keep is None:
            raise SettingError(
                "CheckpointConfig",
                found="save_checkpoint_steps, save_checkpoint_seconds, keep_checkpoint_max and "
                "keep_checkpoint_per_n_minutes all cancelled",
                expected="at least one policy",
                remedy="Set one of them, or leave the ModelCheckpoint out.",
            )
        self._check_choices()
        self._check_best()
        self._check_appended()
        self.packaging()
        if self._is_replaced("save", "is_due", save_checkpoint_steps=steps, save_checkpoint_seconds=seconds):
            steps = seconds = 0
        if self._is_replaced("keep", "expired", keep_checkpoint_max=count, keep_checkpoint_per_n_minutes=minutes):
            count = minutes = 0
        self._put_in_force("save_checkpoint_steps", steps, "save_checkpoint_seconds", seconds)
        self._put_in_force("keep_checkpoint_max", count, "keep_checkpoint_per_n_minutes", minutes)

    def save_policy(self) -> SavePolicy:
        """Return the policy that says when a save is due."""
        if self.save is not None:
            return self.save
        if self.save_checkpoint_steps:
            return EverySteps(self.save_checkpoint_steps)
        return EverySeconds(self.save_checkpoint_seconds) if self.save_checkpoint_seconds else Never()

    def keep_policy(self) -> KeepPolicy:
        """Return the policy that says which checkpoints have expired; with a `monitor`, none of the best has."""
        policy, best = self._keep_policy_but_the_best(), self.best_policy()
        return policy if best is None or isinstance(policy, KeepAll) else KeepEither(policy, best)

    def best_policy(self) -> KeepBest | None:
        """Return the policy that says which checkpoints are the best, or None without a `monitor`."""
        return None if self.monitor is None else KeepBest(self.monitor, self.mode, self.keep_best)

    def save_mode(self) -> Literal["sync", "copied", "lazy"]:
        """Return how saves and the training go together."""
        return "lazy" if self.async_save == "lazy" else "copied" if self.async_save else "sync"

    def packaging(self) -> Packaging:
        """Return what goes around each checkpoint."""
        return Packaging(enc_key=self.enc_key, enc_mode=self.enc_mode, crc_check=self.crc_check)

    def appended(self, epoch: int, global_step: int) -> dict[str, Any]:
        """Return what is appended to the checkpoint of a moment, by name."""
        values: dict[str, Any] = {}
        for item in self.append_info or ():
            values |= {item: {"epoch_num": epoch, "step_num": global_step}[item]} if isinstance(item, str) else item
        return values

    def _check_appended(self) -> None:
        infos = self.append_info or ()
        if isinstance(infos, str) or not isinstance(infos, Sequence):
            raise SettingTypeError("append_info", found=repr(infos), expected="a list", remedy='Give ["epoch_num"].')
        texts = [info for info in infos if isinstance(info, str)]
        maps = [info for info in infos if isinstance(info, Mapping)]
        if len(texts) + len(maps) != len(infos) or not all(isinstance(key, str) for each in maps for key in each):
            raise SettingTypeError(
                "append_info", found=repr(infos), expected="names, and a dict with names", remedy="Give these."
            )
        if not {*texts} <= {*APPENDED} or len(maps) > 1:
            raise SettingError(
                "append_info",
                found=repr(infos),
                expected=" and ".join(map(repr, APPENDED)) + ", and at most one dict",
                remedy="Put values of your own into the dict.",
            )

    def _keep_policy_but_the_best(self) -> KeepPolicy:
        if self.keep is not None:
            return self.keep
        if self.keep_checkpoint_max:
            return KeepLast(self.keep_checkpoint_max)
        return KeepOnePer(self.keep_checkpoint_per_n_minutes) if self.keep_checkpoint_per_n_minutes else KeepAll()

    def _check_choices(self) -> None:
        if self.on_error not in ("raise", "warn"):
            raise SettingError(
                "on_error", found=repr(self.on_error), expected='"raise" or "warn"', remedy='Give "warn" to train on.'
            )
        if self.dialect is not None:
            check_dialect(self.dialect)
        if not isinstance(self.async_save, bool) and self.async_save not in ("copied", "lazy"):
            raise SettingError(
                "async_save",
                found=repr(self.async_save),
                expected='False, True, "copied" or "lazy"',
                remedy='Give True, which is "copied": a thread writes a copy.',
            )
        if self.when_busy not in ("wait", "skip"):
            raise SettingError(
                "when_busy", found=repr(self.when_busy), expected='"wait" or "skip"', remedy='Give "wait" to lose none.'
            )
        for name in ("exception_save", "save_on_signal", "check_snapshots"):
            if not isinstance(getattr(self, name), bool):
                raise SettingTypeError(name, found=repr(getattr(self, name)), expected="a bool", remedy="Give True.")
        if self.check_snapshots and self.save_mode() != "lazy":
            raise self._without_effect("check_snapshots", 'async_save="lazy"', "only what is not copied can be torn")
        if self.when_busy != "wait" and self.save_mode() == "sync":
            raise self._without_effect("when_busy", "async_save=True", "no save is ever due while another is in flight")

    def _without_effect(self, name: str, needed: str, reason: str) -> SettingError:
        return SettingError(
            name,
            found=f"{getattr(self, name)!r} and async_save={self.async_save!r}",
            expected=f"{needed} beside it: {reason}",
            remedy=f"Give that too, or leave {name} out.",
        )

    def _check_best(self) -> None:
        check_count("keep_best", self.keep_best)
        KeepBest("any" if self.monitor is None else self.monitor, self.mode)  # refuses what means nothing
        # At their defaults they say nothing, and a copy or a repr may well spell them out.
        if self.monitor is None and (self.mode != "max" or self.keep_best != 1):
            raise SettingError(
                "mode" if self.mode != "max" else "keep_best",
                found="no monitor beside it",
                expected="the metric that says which checkpoint is the best",
                remedy="Give its name, e.g. monitor='accuracy'.",
            )

    def _is_replaced(self, name: str, verb: str, **settings: float) -> bool:
        """Whether the policy `name` stands in for two settings, neither of which may then be set."""
        policy = getattr(self, name)
        if policy is None:
            return False
        check_policy(name, policy, verb)
        for setting, value in settings.items():
            if value and not isinstance(value, _Default):
                raise SettingError(
                    name,
                    found=f"a policy and {setting}={value}",
                    expected="one of the two",
                    remedy=f"Leave out {setting}, or {name}.",
                )
        return True

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
