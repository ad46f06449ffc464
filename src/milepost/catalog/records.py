"""Which checkpoints exist, and whose run is whose: by name, and by what the files say. No clock, no contents.

A name can mean two things: ``a_2-1_5.ckpt`` is the second run of ``a``, or the first of ``a_2``. A file that records
its run settles it; one that does not (MindSpore's never do) counts for whoever can have named it. A file that cannot
be read is no record: nothing is resumed from it, and nothing may remove it.

What was measured at a step counts for the step's checkpoint, also where that was saved before: the run's ledger says
so, and goes before what the file says. A ledger that cannot be read says nothing here; `ledger.read` tells why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from milepost.catalog import ledger
from milepost.catalog.facts import are_metrics, is_count, is_number, is_object, metrics_of_json
from milepost.catalog.names import CheckpointName, beside, is_of, parse, stem
from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError, MilepostError, RunInUseError
from milepost.format.containers import read_metadata
from milepost.storage.base import Lock, Stat, Storage


@dataclass(frozen=True, slots=True)
class Record:
    """A checkpoint that exists and can be read.

    Args:
        name: Its name.
        created: When it was saved, in Unix seconds.
        nbytes: The file's size in bytes.
        global_step: Steps since the training began, or None in a file that does not say: no run of Milepost wrote it.
        metrics: What was measured at its step, name to value.
    """

    name: CheckpointName
    created: float
    nbytes: int
    global_step: int | None
    metrics: Mapping[str, float] = field(hash=False)

    @property
    def may_expire(self) -> bool:
        """Whether it is an ordinary checkpoint of a run of Milepost; nothing else is ever removed."""
        return self.global_step is not None and not self.name.suffix


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is called like a checkpoint but cannot be read, and why."""

    name: CheckpointName
    error: MilepostError


OnUnreadable = Callable[[Unreadable], object]
"""Is told of each file that was passed over, e.g. the `append` of a list."""


def _ignore(unreadable: Unreadable) -> None:
    """Let the file be passed over in silence."""


def records(storage: Storage, prefix: str, run: int, on_unreadable: OnUnreadable = _ignore) -> list[Record]:
    """Return the checkpoints of one run, oldest first.

    Args:
        storage: Where to look.
        prefix: The training's name.
        run: The run's ordinal, from 1.
        on_unreadable: Is told of each file of this name that cannot be read.
    """
    return _records_of(storage, prefix, run, _files(storage, prefix), on_unreadable)


def is_newest(storage: Storage, prefix: str, text: str) -> bool:
    """Whether a file of this name is the newest checkpoint of its run, and all of the run can be read."""
    name = parse(text, prefix)
    unreadable: list[object] = []
    own = [] if name is None else records(storage, prefix, name.run, unreadable.append)
    return bool(own) and own[-1].name == name and not unreadable


def newest_first(storage: Storage, prefix: str, on_unreadable: OnUnreadable = _ignore) -> Iterator[Record]:
    """Give the checkpoints of all runs: the highest run first, of each run the newest first.

    Args:
        storage: Where to look; it is read run by run, as far as the caller goes.
        prefix: The training's name.
        on_unreadable: Is told of each file that was passed over on the way.
    """
    files = _files(storage, prefix)
    for run in sorted({file.name.run for file in files}, reverse=True):
        yield from reversed(_records_of(storage, prefix, run, files, on_unreadable))


def runs(storage: Storage, prefix: str) -> list[int]:
    """Return the ordinals of the runs that left a checkpoint, readable or not, in ascending order."""
    return sorted(_runs(_files(storage, prefix)))


def next_run(storage: Storage, prefix: str, at_least: int = 1) -> int:
    """Return the ordinal for a new run: above every run found, and one whose names no file of any training has.

    Args:
        storage: Where to look.
        prefix: The training's name.
        at_least: The lowest ordinal that is asked for.
    """
    files = _files(storage, prefix)
    named = {file.name.run for file in files}
    texts = {stat.name for stat in storage.list()}
    run = max(at_least, max(_runs(files), default=0) + 1)
    while run in named or beside(prefix, run) & texts:
        run += 1
    return run


def claim_next_run(storage: Storage, prefix: str) -> tuple[int, Lock]:
    """Claim a new run for this process: the next one that no other process, at the same moment, has claimed.

    Args:
        storage: Where the run's files will be.
        prefix: The training's name.

    Returns:
        The run's ordinal, and the lock that holds it until it is released or the process ends.

    Raises:
        SaveError: The storage cannot be written to.

    Example:
        >>> from milepost.storage.memory import MemoryStorage
        >>> storage = MemoryStorage()
        >>> [claim_next_run(storage, "resnet50")[0] for _ in range(3)]
        [1, 2, 3]
    """
    run = next_run(storage, prefix)
    while True:
        lock = storage.lock(stem(prefix, run))
        if lock is None:
            run += 1
            continue
        # Look again: the run may be named by now, by a process that claimed it, saved, and ended since the first look.
        free = next_run(storage, prefix, run)
        if free == run:
            return run, lock
        lock.release()
        run = free


def claim_run(storage: Storage, prefix: str, run: int) -> Lock:
    """Claim a run that exists, to go on with it.

    Raises:
        RunInUseError: A living process has it.
        SaveError: The storage cannot be written to.
    """
    name = stem(prefix, run)
    lock = storage.lock(name)
    if lock is None:
        raise RunInUseError(
            storage.where(name),
            found=f"{storage.holder(name)} at work on this run",
            expected="a run that no living process has",
            remedy="Wait until it has ended, or begin a new run, without resume. Where the file system has no locks, "
            "those of a process that died on another host are removed by hand.",
        )
    return lock


def sweep(storage: Storage, prefix: str) -> Sequence[str]:
    """Remove what dead processes left unfinished of the runs of a prefix, and return what went."""
    return storage.sweep(lambda name: is_of(name, prefix))


@dataclass(frozen=True, slots=True)
class _File:
    """A file that is called like a checkpoint of the training."""

    storage: Storage
    name: CheckpointName
    stat: Stat

    def read(self) -> Record | Unreadable | None:
        """Return what the file is to the run it is named for, or None if it belongs to another, or is gone by now."""
        try:
            with self.storage.open(self.stat.name) as source:
                return _record(self.name, self.stat, read_metadata(source, source.where), source.where)
        except CheckpointNotFoundError:
            return None
        except MilepostError as error:
            return Unreadable(self.name, error)


def _files(storage: Storage, prefix: str) -> list[_File]:
    named = ((parse(stat.name, prefix), stat) for stat in storage.list())
    return [_File(storage, name, stat) for name, stat in named if name is not None]


def _runs(files: Iterable[_File]) -> set[int]:
    found: set[int] = set()
    for file in files:
        # One file of a run proves it; the others need not be opened.
        if file.name.run not in found and file.read() is not None:
            found.add(file.name.run)
    return found


def _records_of(
    storage: Storage, prefix: str, run: int, files: Iterable[_File], on_unreadable: OnUnreadable
) -> list[Record]:
    found = _records((file for file in files if file.name.run == run), on_unreadable)
    if not found:
        return []
    measured: dict[int | None, dict[str, float]] = {}
    try:
        for report in ledger.read(storage, prefix, run):
            measured.setdefault(report.global_step, {}).update(report.metrics)
    except MilepostError:
        return found
    return [replace(each, metrics={**each.metrics, **measured.get(each.global_step, {})}) for each in found]


def _records(files: Iterable[_File], on_unreadable: OnUnreadable) -> list[Record]:
    found = []
    for file in files:
        match file.read():
            case Record() as record:
                found.append(record)
            case Unreadable() as unreadable:
                on_unreadable(unreadable)
    return sorted(found, key=_age)


def _age(record: Record) -> tuple[int, int, int, float]:
    if record.global_step is None:
        # Where both kinds share a run, Milepost went on from the files of another program: these are older.
        return -1, record.name.epoch, record.name.step, record.created
    return record.global_step, 0, 0, record.created


def _record(name: CheckpointName, stat: Stat, metadata: Mapping[str, Any], where: str) -> Record | None:
    run = _fact(metadata, "run", where, is_object) or {}
    if run.get("prefix", name.prefix) != name.prefix or run.get("ordinal", name.run) != name.run:
        return None
    time = _fact(metadata, "time", where, is_number)
    metrics = _fact(metadata, "metrics", where, are_metrics) or {}
    return Record(
        name=name,
        created=stat.modified if time is None else float(time),
        nbytes=stat.nbytes,
        global_step=_fact(metadata, "global_step", where, is_count),
        metrics=metrics_of_json(metrics),
    )


def _fact(metadata: Mapping[str, Any], key: str, where: str, is_sound: Callable[[Any], bool]) -> Any:
    value = metadata.get(key)
    if value is not None and not is_sound(value):
        raise DamagedCheckpointError(
            where,
            found=f"{value!r:.80} as its {key}",
            expected="what Milepost writes there",
            remedy="It was written by something else; take it out of the folder if it is not needed.",
        )
    return value
