"""``milepost inspect``: what is in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from milepost.catalog.facts import are_metrics, is_count, is_number, is_object, metrics_of_json
from milepost.cli.files import Key, key_options
from milepost.cli.output import (
    Screen,
    age,
    cell,
    clean,
    emit,
    examples,
    figure,
    figures,
    json_option,
    shape,
    shapes,
    share,
    size,
    table,
)
from milepost.folding import Node, groups, tree
from milepost.format.spec import KINDS, Entry, Index

_WIDE, _OTHERS, _SHARES = 100, 35, 8
"""Columns from which on shares are shown, and those that the others, and shares, take up beside names and dtypes."""


@click.command(
    "inspect", short_help="Show what is in a file.", epilog=examples("milepost inspect runs/resnet50-3_32.ckpt")
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--all", "is_unfolded", is_flag=True, help="Every entry on a line of its own, in the file's order.")
@key_options
@json_option
def command(file: Path, is_unfolded: bool, key: Key, as_json: bool) -> None:
    """Show what is in FILE: who wrote it and when, and the tree of its entries with kind, dtype, shape and size.

    Names that differ in their numbers only are one line: layer*.*.conv*.weight. Contents are not read;
    `milepost verify` does that.
    """
    with key.open_file(file) as reader:
        index, container = reader.index, reader.container
    if as_json:
        emit(_facts(file, index, container))
    else:
        _print(file, index, container, is_unfolded)


def _facts(file: Path, index: Index, container: str) -> dict[str, Any]:
    return {
        "file": str(file),
        "nbytes": index.nbytes,
        "container": container,
        "profile": index.profile,
        "metadata": dict(index.metadata),
        "entries": [
            {
                "name": name,
                "kind": entry.kind,
                "dtype": entry.spec.dtype,
                "shape": list(entry.spec.shape),
                "nbytes": entry.nbytes,
                "checksum": None if entry.checksum is None else f"{entry.checksum:016x}",
            }
            for name, entry in index.entries.items()
        ],
        "aliases": dict(index.aliases),
    }


def _print(file: Path, index: Index, container: str, is_unfolded: bool) -> None:
    out = Screen()
    out.print(cell(file, "bold"))
    for name, text in _about(index, container):
        out.print(cell(f"{name:<11}", "dim"), cell(text))
    out.print()
    out.print(_every_entry(index) if is_unfolded else _folded(index, out.width))


def _about(index: Index, container: str) -> Iterable[tuple[str, str]]:
    """What the metadata tells, as far as it is what Milepost writes there."""
    facts = index.metadata
    version = "" if index.profile is None else f", version {index.profile} of the format"
    yield "kind", container + version
    if isinstance(facts.get("writer"), str):
        yield "written by", facts["writer"]
    time_saved: Any = facts.get("time")
    run: Any = facts.get("run")
    metrics: Any = facts.get("metrics")
    if is_number(time_saved) and 0 <= time_saved < 2**36:  # what datetime can tell
        saved = datetime.fromtimestamp(time_saved, timezone.utc)
        yield "saved", f"{saved:%Y-%m-%d %H:%M:%S} UTC, {age(time.time() - time_saved)} ago"
    if is_object(run):
        yield "run", f"{run.get('prefix')}, number {run.get('ordinal')}"
    if is_count(facts.get("epoch")):
        of = f" of {facts['steps_per_epoch']}" if is_count(facts.get("steps_per_epoch")) else ""
        total = f"; {facts['global_step']} steps in all" if is_count(facts.get("global_step")) else ""
        yield "position", f"epoch {facts['epoch']}, step {facts.get('step')}{of}{total}"
    if metrics and are_metrics(metrics):
        yield "metrics", figures(metrics_of_json(metrics))
    if is_object(facts.get("state")) and facts["state"]:
        yield "state of", ", ".join(_states(facts["state"]))
    known = {"writer", "time", "run", "epoch", "step", "steps_per_epoch", "global_step", "metrics", "state"}
    for key, value in facts.items():
        if key not in known | {"history", "epoch_done", "tree"}:
            yield key, f"{_in_words(value):.200}"
    if is_object(facts.get("tree")):  # what a file of torch holds, with references to the entries
        beside = {key: value for key, value in facts["tree"].items() if isinstance(value, str | int | float)}
        if beside:
            yield "beside", ", ".join(f"{key} {value!r:.40}" for key, value in beside.items())
    count, aliases = len(index.entries), len(index.aliases)
    yield "size", f"{size(index.nbytes)}, {count:,} entries" + (f", {aliases:,} further names" if aliases else "")


def _in_words(value: Any) -> str:
    if not is_object(value):
        return repr(value)
    return ", ".join(f"{key} {figure(each) if isinstance(each, float) else each}" for key, each in value.items())


def _states(state: Mapping[str, Any]) -> Iterable[str]:
    for key, value in state.items():
        if key == "objects" and is_object(value):
            yield from (_with_class(name, each) for name, each in value.items())
        elif value is not None and key != "extra":
            yield _with_class(key.removeprefix("extra").removesuffix(".") if key.endswith(".") else key, value)


def _with_class(name: str, value: Any) -> str:
    named = value.get("class") if isinstance(value, dict) else None
    return f"{name} ({named.rpartition('.')[2]})" if isinstance(named, str) else name.replace("_", " ")


def _folded(index: Index, width: int) -> Table:
    by_kind = [(kind, [entry for entry in index.entries.values() if entry.kind == kind]) for kind in KINDS]
    trees = {}
    for kind, entries in by_kind:
        apart = [(entry.spec.dtype, len(entry.spec.shape)) for entry in entries]
        trees[kind] = tree(groups([entry.spec.name for entry in entries], apart))
    # On a narrow terminal shares go first, then shapes give way, and then names.
    has_shares = width >= _WIDE
    longest = max((_longest(node, 1) for nodes in trees.values() for node in nodes), default=0)
    dtypes = max((len(entry.spec.dtype) for entry in index.entries.values()), default=0)
    is_enough = longest + dtypes + _OTHERS + _SHARES * has_shares <= width
    rows = table("entries" if is_enough else "<entries", ">count", "dtype", "<shape", ">size", *[">share"] * has_shares)
    for kind, entries in by_kind:
        if entries:
            _add(rows, 0, Node(kind), entries, index.nbytes, "bold")
            for node in trees[kind]:
                _add_tree(rows, 1, node, entries, index.nbytes)
    return rows


def _longest(node: Node, depth: int) -> int:
    return max([2 * depth + len(node.label), *(_longest(child, depth + 1) for child in node.children)])


def _add_tree(rows: Table, depth: int, node: Node, entries: Sequence[Entry], nbytes: int) -> None:
    _add(rows, depth, node, [entries[position] for position in node.positions], nbytes)
    for child in node.children:
        _add_tree(rows, depth + 1, child, entries, nbytes)


def _add(rows: Table, depth: int, node: Node, entries: Sequence[Entry], nbytes: int, style: str = "") -> None:
    is_inner = depth == 0 or bool(node.children)
    own = sum(entry.nbytes for entry in entries)
    cells = (
        cell("  " * depth + node.label, style),
        f"{len(entries):,}" if is_inner or len(entries) > 1 else "",
        "" if is_inner else entries[0].spec.dtype,
        "" if is_inner else shapes([entry.spec.shape for entry in entries]),
        size(own),
        share(own, nbytes),
    )
    rows.add_row(*cells[: len(rows.columns)], style=style or ("dim" if is_inner else ""))


def _every_entry(index: Index) -> Table:
    rows = table("<entry", "kind", "dtype", "<shape", ">size", ">share")
    for name, entry in index.entries.items():
        rows.add_row(
            cell(name), entry.kind, entry.spec.dtype, shape(entry.spec.shape), size(entry.nbytes),
            share(entry.nbytes, index.nbytes),
        )  # fmt: skip
    for name, of in index.aliases.items():
        rows.add_row(cell(name), cell(f"the same as {clean(of)}"), "", "", "", "")
    return rows
