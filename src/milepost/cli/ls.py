"""``milepost ls``: what is in a folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from milepost.catalog.facts import metrics_to_json
from milepost.catalog.folder import Folder, Run, survey
from milepost.catalog.records import Record
from milepost.cli.files import Key, folder, key_options
from milepost.cli.output import Screen, age, cell, clean, emit, error_facts, examples, figures, json_option, size, table

OTHERS = {
    "-graph.meta": "the network's graph",
    "-best.ckpt": "another name of the best",
    "-metrics.json": "what was measured",
    ".ckpt": "a checkpoint of no run",
    ".safetensors": "weights",
    ".safetensors.index.json": "weights in several files",
    ".pt": "a file of torch.save",
    ".pth": "a file of torch.save",
    ".bin": "a file of torch.save",
    ".onnx": "an exported network",
    ".air": "an exported network",
    ".mindir": "an exported network",
    ".pt2": "an exported network",
}
"""How the other files end that are worth a line, and what they are; the first that fits counts."""


@click.command("ls", short_help="List runs and checkpoints.", epilog=examples("milepost ls runs"))
@click.argument("directory", type=click.Path(path_type=Path), default=".")
@key_options
@json_option
def command(directory: Path, key: Key, as_json: bool) -> None:
    """List the runs and checkpoints in DIRECTORY: epoch, step, metrics, size and age; the newest and the best marked.

    The best is the one that the run's -best.ckpt is another name of.
    """
    found = survey(folder(directory, key))
    if as_json:
        emit(_facts(directory, found))
    else:
        _print(directory, found)


def _others(found: Folder) -> list[tuple[Any, str]]:
    named = (
        (stat, next((text for end, text in OTHERS.items() if stat.name.endswith(end)), "")) for stat in found.others
    )
    return [(stat, text) for stat, text in named if text]


def _facts(directory: Path, found: Folder) -> dict[str, Any]:
    return {
        "directory": str(directory),
        "runs": [
            {
                "prefix": run.prefix,
                "run": run.ordinal,
                "nbytes": sum(record.nbytes for record in run.records),
                "checkpoints": [_record_facts(run, record) for record in run.records],
                "unreadable": [{"name": each.name.text, "error": error_facts(each.error)} for each in run.unreadable],
            }
            for run in found.runs
        ],
        "others": [
            {"name": stat.name, "what": what, "nbytes": stat.nbytes, "modified": stat.modified}
            for stat, what in _others(found)
        ],
    }


def _record_facts(run: Run, record: Record) -> dict[str, Any]:
    return {
        "name": record.name.text,
        "epoch": record.name.epoch,
        "step": record.name.step,
        "global_step": record.global_step,
        "created": record.created,
        "nbytes": record.nbytes,
        "metrics": metrics_to_json(record.metrics),
        "is_newest": record is run.records[-1],
        "is_best": record is run.best,
    }


def _print(directory: Path, found: Folder) -> None:
    out, now = Screen(), time.time()
    for run in found.runs:
        nbytes = sum(record.nbytes for record in run.records)
        title = f"{clean(run.prefix)}, run {run.ordinal}: {len(run.records)} checkpoints, {size(nbytes)}"
        out.print(title, style="bold")
        rows = table("checkpoint", ">epoch", ">step", ">in all", "<metrics", ">size", ">age", "")
        for record in run.records:
            marks = [mark for mark, of in (("newest", run.records[-1]), ("best", run.best)) if record is of]
            rows.add_row(
                cell(record.name.text),
                str(record.name.epoch),
                str(record.name.step),
                "" if record.global_step is None else str(record.global_step),
                cell(figures(record.metrics)),
                size(record.nbytes),
                age(now - record.created),
                cell(", ".join(marks), "green"),
            )
        if run.records:
            out.print(rows)
        for each in run.unreadable:
            out.print(cell(f"{each.name.text}  unreadable: {each.error.found}", "red"))
        out.print()
    others = _others(found)
    if others:
        out.print("other files", style="bold")
        rows = table("name", "<what it is", ">size", ">age")
        for stat, what in others:
            rows.add_row(cell(stat.name), what, size(stat.nbytes), age(now - stat.modified))
        out.print(rows)
    if not found.runs and not others:
        below = sorted({path.parent.name for path in directory.glob("*/*.ckpt")})
        out.print(cell(f"{directory}: no checkpoints here" + (f", but in {', '.join(below)}" if below else "")))
