"""``milepost diff``: what became of a network between two files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from milepost.cli.files import Key, key_options
from milepost.cli.output import (
    DONE,
    FOUND,
    Screen,
    cell,
    emit,
    examples,
    json_option,
    number,
    progress,
    shapes,
    table,
)  # fmt: skip
from milepost.folding import groups
from milepost.format.spec import KINDS

if TYPE_CHECKING:
    from milepost.comparison import Difference


@click.command(
    "diff",
    short_help="Compare two files, entry by entry.",
    epilog=examples("milepost diff runs/resnet50-2_32.ckpt runs/resnet50-3_32.ckpt"),
)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--all", "is_unfolded", is_flag=True, help="Every entry on a line of its own.")
@key_options
@json_option
def command(before: Path, after: Path, is_unfolded: bool, key: Key, as_json: bool) -> int:
    """Compare the entries of two files: added, removed, reshaped, and how far values have moved, the farthest first.

    For each entry: the norm of the difference by the norm before (rel. L2), the cosine between the two, the largest
    difference of a value, and the share of the values that changed. Of entries that are one line, the farthest. Entries
    with the same checksum are the same and are not read; metadata is not compared.

    Exit codes: 0 all entries are equal; 1 they differ; 2 a file is missing, damaged or something else.
    """
    from milepost.comparison import compare

    out = Screen()
    with key.open_file(before) as one, key.open_file(after) as other:
        total = sum(entry.nbytes for entry in one.index.entries.values())
        with progress(out, "comparing", total) as on_compared:
            found = list(compare(one, other, on_compared))
    differences = [each for each in found if each.status != "equal"]
    if as_json:
        emit(_facts(before, after, differences, len(found) - len(differences)))
    else:
        _print(out, before, after, differences, len(found) - len(differences), is_unfolded)
    return FOUND if differences else DONE


def _distance(difference: Difference) -> float:
    """What is sorted by: values that cannot be measured go first."""
    drift = difference.drift
    return math.inf if drift is None or math.isnan(drift.relative_l2) else drift.relative_l2


def _facts(before: Path, after: Path, differences: Sequence[Difference], equal: int) -> dict[str, Any]:
    return {
        "before": str(before),
        "after": str(after),
        "equal": equal,
        "differences": [_difference_facts(each) for each in sorted(differences, key=_distance, reverse=True)],
    }


def _difference_facts(difference: Difference) -> dict[str, Any]:
    drift = difference.drift
    entry = difference.after or difference.before
    return {
        "name": difference.name,
        "status": difference.status,
        "kind": None if entry is None else entry.kind,
        "before": _spec(difference.before),
        "after": _spec(difference.after),
        "relative_l2": None if drift is None else number(drift.relative_l2),
        "cosine": None if drift is None else number(drift.cosine),
        "max_abs": None if drift is None else number(drift.max_abs),
        "changed_share": None if drift is None else drift.changed_share,
    }


def _spec(entry: Any) -> dict[str, Any] | None:
    return None if entry is None else {"dtype": entry.spec.dtype, "shape": list(entry.spec.shape)}


def _print(
    out: Screen, before: Path, after: Path, differences: Sequence[Difference], equal: int, is_unfolded: bool
) -> None:
    out.print(cell(f"{before} -> {after}", "bold"))
    for status, style in (("added", "green"), ("removed", "red"), ("reshaped", "yellow")):
        of_status = [each for each in differences if each.status == status]
        if of_status:
            out.print()
            out.print(cell(f"{len(of_status):,} {status}", style))
            rows = table("<entries", ">count", "<what")
            rows.show_header = False
            for names, members in _lines(of_status, is_unfolded):
                rows.add_row(cell(f"  {names}"), f"{len(members):,}", _described(members))
            out.print(rows)
    changed = [each for each in differences if each.status == "changed"]
    if changed:
        out.print()
        out.print(f"{len(changed):,} changed")
        out.print(_changed(changed, is_unfolded))
    if differences:
        out.print()
    out.print(f"{equal:,} equal" if differences else f"all {equal:,} entries are equal")


def _changed(changed: Sequence[Difference], is_unfolded: bool) -> Table:
    rows = table("<entries", ">count", ">rel. L2", ">cosine", ">max abs", ">changed")
    for kind in KINDS:
        of_kind = [each for each in changed if each.after is not None and each.after.kind == kind]
        if of_kind:
            rows.add_row(cell(kind, "bold"), f"{len(of_kind):,}")
        for names, members in sorted(_lines(of_kind, is_unfolded), key=lambda line: -max(map(_distance, line[1]))):
            rows.add_row(cell(f"  {names}{_retyped(members[0])}"), f"{len(members):,}", *_drift(members))
    return rows


def _lines(differences: Sequence[Difference], is_unfolded: bool) -> list[tuple[str, list[Difference]]]:
    if is_unfolded:
        return [(each.name, [each]) for each in differences]
    found = groups([each.name for each in differences], map(_apart, differences))
    return [(pattern, [differences[position] for position in positions]) for pattern, positions in found]


def _apart(difference: Difference) -> object:
    """What is told on one line has the same types and ranks."""
    entries = (difference.before, difference.after)
    return tuple((entry.spec.dtype, len(entry.spec.shape)) for entry in entries if entry)


def _described(members: Sequence[Difference]) -> str:
    """The type and shape on each side on which there is something; shapes that differ as a range."""
    sides = zip(*([entry for entry in (each.before, each.after) if entry] for each in members), strict=True)
    return " -> ".join(f"{side[0].spec.dtype} {shapes([entry.spec.shape for entry in side])}" for side in sides)


def _retyped(difference: Difference) -> str:
    types = [entry.spec.dtype for entry in (difference.before, difference.after) if entry is not None]
    return f" ({types[0]} -> {types[-1]})" if types[0] != types[-1] else ""


def _drift(members: Sequence[Difference]) -> tuple[str, str, str, str]:
    """The farthest of several, by each measure."""
    drifts = [member.drift for member in members if member.drift is not None]
    if not drifts:
        return "", "", "", ""
    return (
        _worst([each.relative_l2 for each in drifts], max),
        _worst([each.cosine for each in drifts], min, ".6f"),
        _worst([each.max_abs for each in drifts], max),
        f"{100 * max(each.changed_share for each in drifts):.1f} %",
    )


def _worst(values: Sequence[float], pick: Any, form: str = ".4g") -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{pick(known):{form}}" if known else "-"
