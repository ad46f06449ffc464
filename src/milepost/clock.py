"""`Clock`: the time that decides when a training is saved, and that its files tell; so that tests can give another."""

from __future__ import annotations

import time


class Clock:
    """The time, as the manager asks for it."""

    def now_seconds(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def unix_seconds(self) -> float:
        """Seconds since 1970."""
        return time.time()
