"""Which checkpoints have expired: small frozen policies over the records of one run. Nothing is removed here.

Whatever the policy, these never expire: the newest, a breakpoint file, and a file that Milepost did not write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from milepost.catalog.records import Record
from milepost.policy.positive import check_positive


class KeepPolicy(Protocol):
    """Decides which checkpoints of a run can go."""

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """Return those of `records` (of one run, oldest first) that have expired, in the same order."""


@dataclass(frozen=True, slots=True)
class KeepAll:
    """Keep every checkpoint."""

    def expired(self, records: Sequence[Record]) -> list[Record]:  # noqa: ARG002 (the protocol's facts)
        """None."""
        return []


@dataclass(frozen=True, slots=True)
class KeepLast:
    """Keep the newest `count` checkpoints."""

    count: int

    def __post_init__(self) -> None:
        check_positive("count", self.count)

    def expired(self, records: Sequence[Record]) -> list[Record]:
        """All but the newest `count`."""
        return _regular(records)[: -self.count]


@dataclass(frozen=True, slots=True)
class KeepOnePer:
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


def _regular(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.may_expire]
