"""Clocks for tests."""

from __future__ import annotations


class FixedClock:
    """Each save is made at the same time."""

    def now_seconds(self):
        return 0.0

    def unix_seconds(self):
        return 1_790_000_040.0
