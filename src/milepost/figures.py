"""`Figures`: the names of what is measured, and whether the one that says what is best is among them. No values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_ALIKE = 0.85
"""How much of two names must be the same, from 0 to 1, for one to be taken for the other, written wrongly."""


class Figures:
    """What was measured so far, by name.

    Args:
        monitor: `CheckpointConfig.monitor`.

    Example:
        >>> figures = Figures("acuracy")
        >>> figures.see(["loss", "accuracy"])
        >>> print(figures.missed())
        the monitor 'acuracy' was not reported so far, and 'accuracy' was: no checkpoint is the best
        >>> figures.missed(is_over=True) is None  # it was told
        True
    """

    def __init__(self, monitor: str | None) -> None:
        self._monitor = monitor
        self._names: set[str] = set()
        self._is_told = monitor is None

    def see(self, names: Iterable[str]) -> None:
        """Know that these were measured."""
        if not self._is_told:
            self._names.update(names)

    def missed(self, *, is_over: bool = False) -> str | None:
        """Return what there is to tell, once; None where the monitor was reported, or may well still come.

        Args:
            is_over: Whether the training has come to its end. Before, only what looks like the same name is told.
        """
        if self._monitor is None or self._is_told or self._monitor in self._names:
            return None
        alike = [name for name in get_close_matches(self._monitor, self._names, 3, _ALIKE) if self._is_slip(name)]
        if not alike and not is_over:
            return None
        self._is_told = True
        others = ", ".join(map(repr, sorted(alike or self._names)))
        return (
            f"the monitor {self._monitor!r} was not reported so far"
            + (f", and {others} {'was' if len(alike or self._names) == 1 else 'were'}" if others else "")
            + ": no checkpoint is the best"
        )

    def _is_slip(self, name: str) -> bool:
        """Whether a name is the monitor's, written wrongly, and not that of another (``val_accuracy``, ``top5``)."""
        monitor = self._monitor or ""
        is_numbered = re.sub(r"[0-9]", "", name) == re.sub(r"[0-9]", "", monitor)
        return not is_numbered and name not in monitor and monitor not in name
