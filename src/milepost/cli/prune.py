"""``milepost prune``: remove what a policy does not keep."""

from __future__ import annotations

from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Literal

import click

from milepost.catalog.folder import Folder, survey
from milepost.cli.files import Key, folder, key_options
from milepost.cli.output import DONE, REFUSED, Screen, cell, emit, error_facts, examples, json_option, size
from milepost.errors import SettingError
from milepost.policy.keep import KeepBest, KeepEvery, KeepLast, KeepOnePer
from milepost.pruning import Pruned, prune


@click.command(
    "prune",
    short_help="Remove checkpoints that a policy does not keep.",
    epilog=examples(
        "milepost prune runs --keep-last 3 --monitor accuracy",
        "milepost prune runs --keep-last 3 --monitor accuracy --yes",
    ),
)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--keep-last", type=int, metavar="N", help="Keep the newest N.")
@click.option("--keep-every", type=int, metavar="STEPS", help="Keep the first of every so many steps.")
@click.option("--keep-per-minutes", type=float, metavar="MINUTES", help="Keep the last of every so many minutes.")
@click.option("--monitor", metavar="METRIC", help="Keep the best by this metric.")
@click.option("--mode", type=click.Choice(["max", "min"]), default="max", help="Whether its highest is best (default).")
@click.option("--keep-best", type=int, metavar="N", default=1, help="How many of the best (default: 1).")
@click.option("--dry-run/--yes", "is_dry_run", default=True, help="Only say what would go (default), or remove it.")
@key_options
@json_option
def command(
    directory: Path,
    keep_last: int | None,
    keep_every: int | None,
    keep_per_minutes: float | None,
    monitor: str | None,
    mode: Literal["max", "min"],
    keep_best: int,
    is_dry_run: bool,
    key: Key,
    as_json: bool,
) -> int:
    """Remove the checkpoints of each run in DIRECTORY that no --keep option keeps; without --yes, say which.

    What goes is what a training with these policies would have removed. Never removed are a run's newest, the one that
    its -best.ckpt is another name of, breakpoints, what cannot be read, what Milepost did not write, and anything of a
    run that a living process has.
    """
    policies = [
        None if keep_last is None else KeepLast(keep_last),
        None if keep_every is None else KeepEvery(keep_every),
        None if keep_per_minutes is None else KeepOnePer(keep_per_minutes),
        None if monitor is None else KeepBest(monitor, mode, keep_best),
    ]
    given = [policy for policy in policies if policy is not None]
    if not given:
        raise click.UsageError("Give what to keep, e.g. --keep-last 3.", click.get_current_context())
    place = folder(directory, key)
    if monitor is not None:
        _check_measured(monitor, survey(place))
    runs = prune(place, reduce(or_, given), is_dry_run=is_dry_run)
    if as_json:
        emit(_facts(directory, runs, is_dry_run))
    else:
        _print(runs, is_dry_run)
    return REFUSED if any(run.failures for run in runs) else DONE


def _check_measured(monitor: str, found: Folder) -> None:
    """Where nothing was measured, nothing would be the best, and all but the newest would go."""
    kept = [record for run in found.runs for record in run.records]
    measured = sorted({name for record in kept for name in record.metrics})
    if kept and monitor not in measured:
        raise SettingError(
            "--monitor",
            found=f"{monitor!r}, which no checkpoint has",
            expected=f"one of {', '.join(measured)}" if measured else "no monitor: no checkpoint has metrics",
            remedy="Check the name; milepost ls shows the metrics.",
        )


def _facts(directory: Path, runs: list[Pruned], is_dry_run: bool) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "is_dry_run": is_dry_run,
        "runs": [
            {
                "prefix": run.prefix,
                "run": run.ordinal,
                "kept": [record.name.text for record in run.kept],
                "expired": [{"name": record.name.text, "nbytes": record.nbytes} for record in run.expired],
                "failures": [{"name": record.name.text, "error": error_facts(error)} for record, error in run.failures],
                "held_by": run.holder,
            }
            for run in runs
        ],
    }


def _print(runs: list[Pruned], is_dry_run: bool) -> None:
    out = Screen()
    for run in runs:
        total = len(run.kept) + len(run.expired)
        out.print(cell(f"{run.prefix}, run {run.ordinal}: {len(run.kept)} of {total} checkpoints stay", "bold"))
        if run.holder is not None:
            out.print(cell(f"  nothing is removed: {run.holder} is at work on it", "yellow"))
        for record in run.expired:
            error = next((error for failed, error in run.failures if failed is record), None)
            if error is not None:
                out.print(cell(f"  not removed   {error}", "red"))
            else:
                verb = "would remove" if is_dry_run else "removed     "
                out.print(cell(f"  {verb}  {record.name.text}  {size(record.nbytes)}"))
    gone = [record for run in runs for record in run.expired if record not in [failed for failed, _ in run.failures]]
    what = f"{len(gone)} of {sum(len(run.kept) + len(run.expired) for run in runs)} checkpoints"
    nbytes = size(sum(record.nbytes for record in gone))
    if is_dry_run:
        out.print(cell(f"{what} would be removed, {nbytes}. Nothing was: add --yes to remove them."))
    else:
        out.print(cell(f"{what} removed, {nbytes}."))
