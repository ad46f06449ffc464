"""`Clock`: the time, read in one place, so that tests can give another one. What it is for is not known here."""

from __future__ import annotations

import time


class Clock:
    """The time, as the manager asks for it; tests give another one."""

    def now_seconds(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def unix_seconds(self) -> float:
        """Seconds since 1970."""
        return time.time()
