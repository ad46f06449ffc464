"""Which checkpoints have expired: small frozen policies over the records of one run. Nothing is removed here.

Whatever the policy, these never expire: the newest, a breakpoint file, and a file that Milepost did not write. Policies
compose: by ``KeepLast(5) | KeepEvery(1000)`` a checkpoint is kept that either of them keeps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from milepost.catalog.records import Record
from milepost.errors import SettingError, SettingTypeError
from milepost.policy.checks import check_count, check_policy, check_positive

_NAME_IT = "Give the name that the metric is reported under, e.g. 'accuracy'."


class KeepPolicy(Protocol):
    """Decides which checkpoints of a run can go."""

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """Return those of `records` (of one run, oldest first) that have expired, in the same order."""


def expired(policy: KeepPolicy, records: Sequence[Record]) -> list[Record]:
    """Return what may be removed by a policy that anybody may have written: none of those that never expire.

    Args:
        policy: The policy.
        records: The checkpoints of one run, oldest first.
    """
    regular = {record.name for record in _regular(records)[:-1]}
    return [record for record in policy.expired(records) if record.name in regular]


class _Composable:
    """What composes with other policies by ``|``."""

    __slots__ = ()

    def __or__(self: KeepPolicy, other: KeepPolicy) -> KeepEither:
        return KeepEither(self, other)

    def __ror__(self: KeepPolicy, other: KeepPolicy) -> KeepEither:
        return KeepEither(other, self)


@dataclass(frozen=True, slots=True)
class KeepEither(_Composable):
    """Keep what the first policy keeps or the second; what ``first | second`` makes."""

    first: KeepPolicy
    second: KeepPolicy

    def __post_init__(self) -> None:
        for policy in (self.first, self.second):
            check_policy("keep", policy, "expired")

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """Those that have expired under both."""
        others = {record.name for record in self.second.expired(records)}
        return [record for record in self.first.expired(records) if record.name in others]


@dataclass(frozen=True, slots=True)
class KeepAll(_Composable):
    """Keep every checkpoint."""

    def expired(self, records: Sequence[Record]) -> list[Record]:  # noqa: ARG002 (the protocol's facts)
        """None."""
        return []


@dataclass(frozen=True, slots=True)
class KeepLast(_Composable):
    """Keep the newest `count` checkpoints."""

    count: int

    def __post_init__(self) -> None:
        check_count("count", self.count)

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """All but the newest `count`."""
        return _regular(records)[: -self.count]


@dataclass(frozen=True, slots=True)
class KeepOnePer(_Composable):
    """Keep one checkpoint, the last, of each `minutes` minutes.

    Time is divided into windows: window ``k`` holds the checkpoints created from ``60 * minutes * k`` Unix seconds on,
    and before ``60 * minutes * (k + 1)``. The window of the newest checkpoint is the current one. Inside it only the
    newest stays; everything outside it stays for good.

    So as each save is followed by this rule, a window leaves behind the last checkpoint saved in it. With ``minutes=1``
    and a save each 20 seconds:

    ====================  =======================================
    a save at             leaves the checkpoints of
    ====================  =======================================
    10:00:00              10:00:00
    10:00:20              10:00:20
    10:00:40              10:00:40
    10:01:00              10:00:40, 10:01:00
    10:01:20              10:00:40, 10:01:20
    10:01:40              10:00:40, 10:01:40
    10:02:00              10:00:40, 10:01:40, 10:02:00
    ====================  =======================================
    """

    minutes: float

    def __post_init__(self) -> None:
        check_positive("minutes", self.minutes)

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """All of the newest's window but the newest."""
        regular = _regular(records)
        return [record for record in regular[:-1] if self._window(record) == self._window(regular[-1])]

    def _window(self, record: Record) -> float:
        return record.created // (60.0 * self.minutes)


@dataclass(frozen=True, slots=True)
class KeepEvery(_Composable):
    """Keep for good the first checkpoint of each `steps` steps, beside the newest.

    Steps are those since the training began: with ``steps=1000`` and a save each 300 steps, the checkpoints of the
    steps 1200, 2100, 3000, 4200 stay, the first from 1000, from 2000, from 3000 and from 4000 on.
    """

    steps: int

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """All but the first of each window, and the newest."""
        regular = _regular(records)
        first: dict[int, Record] = {}
        for record in regular:
            first.setdefault(self._window(record), record)
        return [record for record in regular[:-1] if not self._window(record) or first[self._window(record)] != record]

    def _window(self, record: Record) -> int:
        return (record.global_step or 0) // self.steps


@dataclass(frozen=True, slots=True)
class KeepBest(_Composable):
    """Keep the best `count` checkpoints by a metric, beside the newest.

    Args:
        monitor: The metric's name.
        mode: Whether the highest is the best, ``"max"``, or the lowest, ``"min"``.
        count: How many.

    Raises:
        SettingTypeError: A part of the wrong type.
        SettingError: An empty `monitor`, another `mode`, or a `count` below 1.
    """

    monitor: str
    mode: Literal["max", "min"] = "max"
    count: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.monitor, str):
            raise SettingTypeError("monitor", found=f"{self.monitor!r:.80}", expected="a str", remedy=_NAME_IT)
        if not self.monitor:
            raise SettingError("monitor", found="an empty name", expected="a metric's name", remedy=_NAME_IT)
        if self.mode not in ("max", "min"):
            remedy = 'Give "max" for an accuracy, "min" for a loss.'
            raise SettingError("mode", found=f"{self.mode!r:.80}", expected='"max" or "min"', remedy=remedy)
        check_count("count", self.count)

    def best(self, records: Sequence[Record]) -> list[Record]:
        """Return the best `count` of `records`, the best first; of equals the earlier is the better.

        One in which the metric is missing or NaN is never among them.
        """
        measured = [record for record in records if not math.isnan(self._value(record))]
        return sorted(measured, key=self._value, reverse=self.mode == "max")[: self.count]

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """All but the best and the newest."""
        best = {record.name for record in self.best(records)}
        return [record for record in _regular(records)[:-1] if record.name not in best]

    def _value(self, record: Record) -> float:
        return record.metrics.get(self.monitor, math.nan)


def _regular(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.may_expire]
