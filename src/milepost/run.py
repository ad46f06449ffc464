"""`Run`: what exists of one run of a training on disk, and what of it may be removed. States are not known here."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from milepost.catalog import ledger, records
from milepost.catalog.ledger import Report
from milepost.catalog.names import CheckpointName, best_name, graph_name
from milepost.catalog.records import Record
from milepost.config import CheckpointConfig
from milepost.errors import CheckpointNotFoundError, MilepostError, SaveError
from milepost.policy.keep import expired
from milepost.storage.base import Lock
from milepost.storage.local import LocalStorage


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is kept; it can be given wherever a path can.

    Args:
        path: The file.
        epoch: The epoch it was saved in, from 1.
        step: The step within that epoch.
        global_step: Steps of all epochs, or None in a file of another program.
        created: When it was saved, in Unix seconds.
        nbytes: The file's size in bytes.
        metrics: What was measured at that moment.
    """

    path: Path
    epoch: int
    step: int
    global_step: int | None
    created: float
    nbytes: int
    metrics: Mapping[str, float]

    def __fspath__(self) -> str:
        return os.fspath(self.path)


class Refusals:
    """What is done where a file system refuses: raised, or told once per cause, as `CheckpointConfig.on_error` says.

    Args:
        on_error: ``"raise"`` or ``"warn"``.
    """

    def __init__(self, on_error: str) -> None:
        self._on_error = on_error
        self._told: set[int | None] = set()

    def attempt(self, act: Callable[[], object]) -> None:
        """Do something that may be refused."""
        try:
            act()
        except SaveError as error:
            if self._on_error == "raise":
                raise
            if error.errno not in self._told:
                self._told.add(error.errno)
                warnings.warn(f"not saved; the training goes on, and the next due save is tried. {error}", stacklevel=2)

    def forget(self) -> None:
        """After a success, tell of each cause anew."""
        self._told.clear()


class Run:
    """One run, claimed for this process until `release`: its checkpoints, its best, and what was reported of it.

    Args:
        storage: Where the run's files are.
        prefix: The training's name.
        config: What to keep.
        refusals: What is done where the file system refuses.
        after: The checkpoint that the training goes on from; it is gone on with if that is its run's newest. None, or
            any other, begins the next run.

    Attributes:
        ordinal: The run's number, from 1.
        records: Its checkpoints that are durable and kept, oldest first.

    Raises:
        RunInUseError: A living process is at work on the run.
        SaveError: The folder cannot be made or written to.
    """

    def __init__(
        self,
        storage: LocalStorage,
        prefix: str,
        config: CheckpointConfig,
        refusals: Refusals,
        after: CheckpointName | None = None,
    ) -> None:
        self._storage = storage
        self._prefix = prefix
        self._config = config
        self._refusals = refusals
        self._lock = threading.RLock()
        self._reports: list[Report] = []
        self._coming: int | None = None
        self._early: list[Report] = []
        self._linked: CheckpointName | None = None
        self.ordinal, self._claim, self.records = self._claimed(after)
        self.is_claimed = True

    def begin(self) -> None:
        """Tidy up after those who died, read what was reported, and name the best of what is there."""
        records.sweep(self._storage, self._prefix)
        if self.records:
            self._reports = self._late_reports()
            self._tidy()

    def name(self, epoch: int, step: int, suffix: str = "") -> CheckpointName:
        """What a checkpoint of this run is called."""
        return CheckpointName(self._prefix, self.ordinal, epoch, step, suffix)

    def latest(self) -> Path | None:
        """The newest checkpoint, or None before the first."""
        return self._path(self.records[-1]) if self.records else None

    def all(self) -> list[Saved]:
        """The checkpoints that are kept, oldest first."""
        return [
            Saved(
                self._path(record), record.name.epoch, record.name.step, record.global_step, record.created,
                record.nbytes, record.metrics,
            )
            for record in self.records
        ]  # fmt: skip

    def best(self) -> Path | None:
        """The best checkpoint, or None without a monitor, or before the first that was measured."""
        policy = self._config.best_policy()
        best = [] if policy is None else policy.best(self.records)
        return self._path(best[0]) if best else None

    def would_be_best(self, candidate: Record) -> bool:
        """Whether a checkpoint that does not exist yet would be among the best."""
        policy = self._config.best_policy()
        return policy is not None and candidate in policy.best([*self.records, candidate])

    def reports_of(self, global_step: int) -> list[Report]:
        """What was reported of a step after its checkpoint had been written."""
        return [report for report in self._reports if report.global_step == global_step]

    def expect(self, global_step: int | None) -> None:
        """Say that a checkpoint of this step is being written; what is reported of it meanwhile is kept for it.

        None says that none is any more.
        """
        with self._lock:
            self._coming = global_step
            self._early.clear()

    def add(self, record: Record) -> None:
        """Count a checkpoint that has become durable; only then is another named the best, and do expired ones go."""
        with self._lock:
            self.records.append(record)
            early, self._early, self._coming = self._early, [], None
            for report in early:
                self.report(report)
            self._tidy()

    def report(self, report: Report) -> bool:
        """Add what was measured to the checkpoint of its step, and return whether there is one, or one is coming."""
        with self._lock:
            if report.global_step == self._coming:
                self._early.append(report)
                return True
            found = [place for place, record in enumerate(self.records) if record.global_step == report.global_step]
            for place in found:
                record = self.records[place]
                self.records[place] = replace(record, metrics={**record.metrics, **report.metrics})
            if found:
                self._reports.append(report)
                self._refusals.attempt(lambda: ledger.write(self._storage, self._prefix, self.ordinal, self._reports))
                self._tidy()
            return bool(found)

    def add_graph(self, make: Callable[[dict[str, str]], bytes]) -> None:
        """Write the network's graph beside the checkpoints, unless it is there; no failure to do so ends a training.

        Args:
            make: Given what the file is to say of its run, returns its content.
        """
        name = graph_name(self._prefix, self.ordinal)
        if any(stat.name == name for stat in self._storage.list()):
            return
        try:
            content = make({"prefix": self._prefix, "run": str(self.ordinal)})
            with self._storage.create(name, len(content)) as file:
                file.write(content)
                file.commit()
        except Exception as error:  # whatever a tracer meets in a network, it is no reason to end a training
            warnings.warn(f"{name} was not written; the training goes on. {error}", stacklevel=2)

    def release(self) -> None:
        """Give the run back, so that it can be gone on with; the end of the process does so too."""
        self.is_claimed = False
        self._claim.release()

    def _path(self, record: Record) -> Path:
        return self._storage.directory / record.name.text

    def _claimed(self, after: CheckpointName | None) -> tuple[int, Lock, list[Record]]:
        """Claim the run that `after` is the newest checkpoint of, or else a new one."""
        if after is not None:
            claim = records.claim_run(self._storage, self._prefix, after.run)
            own = records.records(self._storage, self._prefix, after.run)
            if own and own[-1].name == after:
                return after.run, claim, own
            claim.release()  # another process has gone on with it, and ended, since it was looked at
        return *records.claim_next_run(self._storage, self._prefix), []

    def _late_reports(self) -> list[Report]:
        try:
            return ledger.read(self._storage, self._prefix, self.ordinal)
        except MilepostError as error:
            tell([error])
            return []

    def _tidy(self) -> None:
        """After anything has become durable: name the best, and let go of what has expired."""
        policy = self._config.best_policy()
        best = policy.best(self.records)[:1] if policy is not None else []
        if best and best[0].name != self._linked:
            name = best_name(self._prefix, self.ordinal)

            def link() -> None:
                self._storage.link(best[0].name.text, name)
                self._linked = best[0].name

            try:
                self._refusals.attempt(link)
            except CheckpointNotFoundError as error:  # somebody has removed it
                tell([error])
                self._linked = best[0].name
        for record in expired(self._config.keep_policy(), self.records):
            try:
                self._storage.remove(record.name.text)
            except SaveError as error:  # the training matters more; it is tried again after the next save
                warnings.warn(f"an expired checkpoint could not be removed: {error}", stacklevel=2)
            else:
                self.records.remove(record)


def tell(passed_over: list[MilepostError]) -> None:
    """Warn of files that were passed over."""
    for error in passed_over:
        warnings.warn(f"passed over, and kept: {error}", stacklevel=3)
