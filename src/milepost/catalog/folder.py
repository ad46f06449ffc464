"""What a folder holds: the runs of every prefix with their checkpoints, and the other files of Milepost's. No contents.

`records` looks for the runs of a prefix that is known. Here the names tell which prefixes there can be, and the files
whose they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from milepost.catalog.facts import is_object
from milepost.catalog.names import best_name, prefixes
from milepost.catalog.records import Record, Unreadable, newest_first
from milepost.errors import MilepostError
from milepost.format.containers import read_metadata
from milepost.storage.base import Stat, Storage


@dataclass(frozen=True, slots=True)
class Run:
    """A run that left something.

    Args:
        prefix: The training's name.
        ordinal: The run's number, from 1.
        records: Its checkpoints, oldest first.
        unreadable: Files that are called like its checkpoints, but cannot be read.
        best: The checkpoint that the run's ``-best.ckpt`` is another name of, if there is one.
    """

    prefix: str
    ordinal: int
    records: Sequence[Record]
    unreadable: Sequence[Unreadable]
    best: Record | None


@dataclass(frozen=True, slots=True)
class Folder:
    """What `survey` finds: the runs, by prefix and number, and all files that are no checkpoint of a run, by name."""

    runs: Sequence[Run]
    others: Sequence[Stat]


def survey(storage: Storage) -> Folder:
    """Return what a folder holds.

    A file that does not say whose it is counts for the shortest prefix that can have named it.

    Example:
        >>> from milepost.storage.memory import MemoryStorage
        >>> survey(MemoryStorage())
        Folder(runs=[], others=[])
    """
    stats = storage.list()
    found: dict[tuple[str, int], tuple[list[Record], list[Unreadable]]] = {}
    seen: set[str] = set()
    for prefix in sorted({prefix for stat in stats for prefix in prefixes(stat.name)}):
        unreadable: list[Unreadable] = []
        records = list(newest_first(storage, prefix, unreadable.append))
        for record in reversed(records):
            if record.name.text not in seen:
                found.setdefault((prefix, record.name.run), ([], []))[0].append(record)
        for file in unreadable:
            if file.name.text not in seen:
                found.setdefault((prefix, file.name.run), ([], []))[1].append(file)
        seen |= {each.name.text for each in records} | {each.name.text for each in unreadable}
    runs = [Run(*of, *files, best_of(storage, *of, files[0])) for of, files in sorted(found.items())]
    others = sorted((stat for stat in stats if stat.name not in seen), key=lambda stat: stat.name)
    return Folder(runs, others)


def best_of(storage: Storage, prefix: str, ordinal: int, records: Sequence[Record]) -> Record | None:
    """Return the one of a run's `records` that its ``-best.ckpt`` is another name of, or None."""
    try:
        with storage.open(best_name(prefix, ordinal)) as file:
            metadata = read_metadata(file, file.where)
    except MilepostError:
        return None
    # "a_2-best.ckpt" is the name of the second run of "a" and of the first of "a_2".
    run: Any = metadata.get("run")
    if not is_object(run) or (run.get("prefix"), run.get("ordinal")) != (prefix, ordinal):
        return None
    step = metadata.get("global_step")
    return next((record for record in records if record.global_step is not None and record.global_step == step), None)
