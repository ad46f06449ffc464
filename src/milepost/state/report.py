"""What a load did, name by name. The loading itself is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from milepost.errors import LoadError
from milepost.folding import groups

SHOWN = 8
"""Lines per part of a printed report."""

SHOWN_LOADED = 4
"""Patterns of what was loaded: enough to recognise it."""


class Mismatch(NamedTuple):
    """An entry that does not fit its place: as found in the checkpoint, and as expected by the target."""

    name: str
    found: str
    expected: str
    is_of_shape: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.found} in the checkpoint, {self.expected} in the target"


class Cast(NamedTuple):
    """An entry whose dtype was converted."""

    name: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.name}: {self.found} -> {self.expected}"


class Renamed(NamedTuple):
    """An entry that was loaded into another name."""

    found: str
    name: str

    def __str__(self) -> str:
        return f"{self.found} -> {self.name}"


@dataclass(frozen=True)
class LoadReport:
    """What became of every name of both sides; ``print(report)`` shows it as a table.

    Unpacks into two lists, as MindSpore's `load_param_into_net` returns them: names of the target that were not
    loaded, and names of the checkpoint that were not used.

    Args:
        target: What was loaded into, e.g. ``ResNet50``.
        loaded: Names of the target that have their value from the checkpoint.
        missing: Names of the target that the checkpoint lacks; they are as before.
        unexpected: Names of the checkpoint that the target lacks.
        mismatched: Names whose shape does not fit, where that was allowed; they are as before.
        cast: Names whose dtype was converted.
        renamed: Names that were matched under another name.
        kept: Names that checkpoints of this kind never have, and that change no result; they are as before.
    """

    target: str
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    cast: tuple[Cast, ...] = ()
    renamed: tuple[Renamed, ...] = ()
    kept: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[list[str]]:
        yield [*self.missing, *(mismatch.name for mismatch in self.mismatched)]
        yield list(self.unexpected)

    def __str__(self) -> str:
        lines = [f"{self.target}: {len(self.loaded)} loaded"]
        for part in ("missing", "unexpected", "mismatched", "cast", "renamed", "kept"):
            items = getattr(self, part)
            if items:
                lines.append(f"  {part} ({len(items)})")
                lines.extend(f"    {line}" for line in fold(str(item) for item in items))
        if len(self.loaded) > 1:
            lines.append(f"  loaded: {', '.join(fold(self.loaded, SHOWN_LOADED))}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Prepared:
    """A load that is read and checked: `apply` does what `report` says."""

    report: LoadReport
    apply: Callable[[], Any]


def refuse_leftovers(report: LoadReport, where: str) -> None:
    """Raise `LoadError` if a name of either side is left over."""
    if report.missing or report.unexpected:
        raise LoadError(
            where,
            found=f"missing: {', '.join(fold(report.missing)) or 'nothing'}; "
            f"unexpected: {', '.join(fold(report.unexpected)) or 'nothing'}",
            expected="the same names on both sides",
            remedy="Build the target as it was saved, or do not ask for a strict load, and read the report.",
        )


def fold(lines: Iterable[str], shown: int = SHOWN) -> list[str]:
    """Fold lines that differ only in the numbers of their names, and cut what is still too long.

    >>> fold(["layer1.0.weight", "layer2.0.weight", "fc.bias", "fc.scale_1", "fc.scale_2"])
    ['layer*.0.weight (2)', 'fc.bias', 'fc.scale_* (2)']
    """
    folded = [pattern + (f" ({len(positions)})" if len(positions) > 1 else "") for pattern, positions in groups(lines)]
    rest = len(folded) - shown
    return folded if rest <= 0 else [*folded[:shown], f"... and {rest} more"]
