"""`CheckpointManager`: decides, gathers, commits, prunes; the one reader of the clock. Bytes are not known here.

One save: the policy decides, the state is gathered and written; only when the file is durable is it counted, and only
then do expired ones go. One resume: the newest checkpoint whose every byte is as it was saved, of the newest run.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import Optimizer

from milepost.catalog import records
from milepost.catalog.names import BREAKPOINT, CheckpointName, check_prefix, graph_name, parse
from milepost.catalog.records import Record
from milepost.checkpoint import open_checkpoint, prepare, store
from milepost.config import CheckpointConfig
from milepost.errors import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    MilepostError,
    NotACheckpointError,
    ReadError,
    SaveError,
    SettingError,
)
from milepost.graphs.meta import graph_meta
from milepost.moment import EPOCH_START, RANDOM, Moment, Resumed
from milepost.parameters import Parameters
from milepost.policy.save import Progress
from milepost.state import modules, optimizers, random
from milepost.state.snapshot import Snapshot
from milepost.storage.base import Lock
from milepost.storage.local import LocalStorage


class Clock:
    """The time, as the manager asks for it; tests give another one."""

    def now_seconds(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return time.monotonic()

    def unix_seconds(self) -> float:
        """Seconds since 1970."""
        return time.time()


class CheckpointManager:
    """Saves a training by policy, keeps what is to be kept, and finds it again.

    Args:
        directory: The folder; made when a run begins.
        net: The module.
        optimizer: Its optimizer.
        beside: Further modules that are trained, e.g. a loss with parameters, by a name that their entries begin with.
        prefix: What the files' names begin with.
        config: When to save and what to keep; the defaults of `CheckpointConfig` if None.
        clock: Where the time comes from.

    Raises:
        SettingError: A setting cannot be meant.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        net: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        beside: Mapping[str, nn.Module] = MappingProxyType({}),
        prefix: str = "CKP",
        config: CheckpointConfig | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._prefix = check_prefix(prefix)
        self._storage = LocalStorage(check_directory(directory))
        self._net = net
        self._optimizer = optimizer
        self._beside = {f"{name}.": module for name, module in beside.items()}
        self._config = config or CheckpointConfig()
        self._clock = clock or Clock()
        self._run = 0
        self._give_back: Callable[[], object] | None = None
        self._records: list[Record] = []
        self._last_attempt = Progress(0, 0, 0, self._clock.now_seconds())
        self._saved_step: int | None = None
        self._last_moment: Moment | None = None
        self._told: set[int | None] = set()
        self._lock = threading.RLock()

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint of this run, or None before the first."""
        return self._storage.directory / self._records[-1].name.text if self._records else None

    @property
    def needs_inputs(self) -> bool:
        """Whether the network's inputs are still wanted, for its graph."""
        return not self._records

    def start(self, after: Moment | None = None) -> None:
        """Begin the next run of this prefix.

        Args:
            after: Where the training stands, if not at its beginning: from there on the next save is counted.

        Raises:
            SaveError: The folder cannot be made or written to.
        """
        self.close()
        run, claim = records.claim_next_run(self._storage, self._prefix)
        self._begin(run, claim, [], self._progress(after or Moment(0, 0, 0)))

    def resume(self, which: str | os.PathLike[str], steps_per_epoch: int | None = None) -> Resumed | None:
        """Load a checkpoint into the network and the optimizer, and go on with its run.

        Args:
            which: ``auto`` for the newest checkpoint of the prefix, or a fresh start where there is none; ``must`` for
                the newest, or an error; else the path of a checkpoint. One that is not the newest of its run begins a
                new run, so that nothing of the other future is overwritten; so does one that is newest only because
                damaged ones were passed over.
            steps_per_epoch: Batches in the data set, where that is known.

        Returns:
            Where the training goes on, or None for a fresh start.

        Raises:
            CheckpointNotFoundError: There is none.
            LoadError: The checkpoint does not fit the network or the optimizer exactly; neither has changed.
            RunInUseError: A living process is at work on the run.
        """
        self.close()
        if which not in ("auto", "must"):
            path = Path(which)
            is_newest = path.parent.resolve() == self._storage.directory.resolve() and self._is_newest(path.name)
            with open_checkpoint(LocalStorage(path.parent), path.name) as parameters:
                return self._go_on(parameters, path.name if is_newest else None, steps_per_epoch)
        passed_over: list[MilepostError] = []
        for record in records.newest_first(self._storage, self._prefix, lambda found: passed_over.append(found.error)):
            name = record.name.text
            try:
                with open_checkpoint(self._storage, name) as parameters:
                    parameters.verify()
                    resumed = self._go_on(parameters, None if passed_over else name, steps_per_epoch)
            except (DamagedCheckpointError, NotACheckpointError, ReadError) as error:
                passed_over.append(error)
            else:
                _tell(passed_over)
                return resumed
        _tell(passed_over)
        if which == "must":
            raise CheckpointNotFoundError(
                self._storage.where(),
                found=f"no checkpoint of the prefix {self._prefix!r} that can be read",
                expected='one to go on from (resume="must")',
                remedy='Check directory and prefix, or train with resume="auto".',
            )
        self.start()
        return None

    def step(self, moment: Moment) -> None:
        """Save if the policy says that a checkpoint is due, as `CheckpointConfig.on_error` says."""
        self._last_moment = moment
        if self._config.save_policy().is_due(self._progress(moment), self._last_attempt):
            self._save_or_tell(moment)

    def finish(self) -> None:
        """Save the last step, unless it is saved."""
        if self._last_moment is not None:
            self._save_or_tell(self._last_moment)

    def close(self) -> None:
        """Give the run back, so that it can be gone on with; the end of the process does so too."""
        self._run = 0
        if self._give_back is not None:
            self._give_back()

    def save_breakpoint(self, moment: Moment | None = None) -> None:
        """Save a step out of turn, under a name that says so; by default the last one. One that is saved stays so."""
        moment = moment or self._last_moment
        if moment is not None:
            self._save_or_tell(moment, BREAKPOINT)

    def save(self, moment: Moment, suffix: str = "") -> Path:
        """Save now; a second save of one step returns the first. Threads take turns.

        Args:
            moment: Where the training stands.
            suffix: What the file's name ends with.

        Raises:
            SaveError: The file system refused; every earlier checkpoint is as it was.
            UnsupportedStateError: Something in the state cannot be stored.
        """
        with self._lock:
            return self._save(moment, suffix)

    def _save(self, moment: Moment, suffix: str) -> Path:
        if not self._run:
            raise SettingError(
                "CheckpointManager",
                found="a save before the beginning",
                expected="a run",
                remedy="Call start() or resume() first.",
            )
        if self.latest is None or self._saved_step != moment.global_step:
            is_first = not self._records
            self._last_attempt = self._progress(moment)
            self._records.append(self._write(moment, suffix))
            self._saved_step = moment.global_step
            self._told.clear()
            self._prune()
            if is_first:
                self._write_graph(moment.inputs)
        assert self.latest is not None
        return self.latest

    def _save_or_tell(self, moment: Moment, suffix: str = "") -> None:
        try:
            self.save(moment, suffix)
        except SaveError as error:
            if self._config.on_error == "raise":
                raise
            if error.errno not in self._told:
                self._told.add(error.errno)
                warnings.warn(f"not saved; the training goes on, and the next due save is tried. {error}", stacklevel=2)

    def _write(self, moment: Moment, suffix: str) -> Record:
        name = CheckpointName(self._prefix, self._run, moment.epoch, moment.step, suffix)
        created = self._clock.unix_seconds()
        metrics = {key: float(value) for key, value in moment.metrics.items()}
        snapshot = Snapshot()
        modules.take(self._net, snapshot)
        for prefix, module in self._beside.items():
            modules.take(module, snapshot, prefix)
        if self._optimizer is not None:
            optimizers.take(self._optimizer, self._parameter_names(), snapshot)
        snapshot.state[RANDOM] = snapshot.pack(random.capture(moment.loader), RANDOM, "random")
        if moment.epoch_start is not None:
            snapshot.state[EPOCH_START] = snapshot.pack(dict(moment.epoch_start), EPOCH_START, "random")
        facts = {
            "run": {"prefix": self._prefix, "ordinal": self._run},
            "epoch": moment.epoch,
            "step": moment.step,
            "global_step": moment.global_step,
            "steps_per_epoch": moment.steps_per_epoch,
            "time": created,
            # JSON has no NaN; a diverged loss is still worth telling.
            "metrics": {key: value if math.isfinite(value) else str(value) for key, value in metrics.items()},
        }
        stat = store(self._storage, name.text, snapshot, facts)
        return Record(name, created, stat.nbytes, moment.global_step, metrics)

    def _prune(self) -> None:
        for record in self._config.keep_policy().expired(self._records):
            try:
                self._storage.remove(record.name.text)
            except SaveError as error:  # the training matters more; it is tried again after the next save
                warnings.warn(f"an expired checkpoint could not be removed: {error}", stacklevel=2)
            else:
                self._records.remove(record)

    def _write_graph(self, inputs: tuple[torch.Tensor, ...]) -> None:
        name = graph_name(self._prefix, self._run)
        if not inputs or any(stat.name == name for stat in self._storage.list()):
            return
        try:
            run = {"prefix": self._prefix, "run": str(self._run)}
            content = graph_meta(self._net, inputs, metadata=run)
            with self._storage.create(name, len(content)) as file:
                file.write(content)
                file.commit()
        except Exception as error:  # whatever a tracer meets in a network, it is no reason to end a training
            warnings.warn(f"{name} was not written; the training goes on. {error}", stacklevel=2)

    def _go_on(self, parameters: Parameters, newest: str | None, steps_per_epoch: int | None) -> Resumed:
        """Load, and go on with the run of the checkpoint called `newest`, or begin a new one."""
        resumed = Resumed(parameters)
        resumed.check_epoch(steps_per_epoch)
        loads = [prepare(self._net, parameters, strict=True)]
        loads += [prepare(module, parameters, strict=True, part=prefix[:-1]) for prefix, module in self._beside.items()]
        if self._optimizer is not None:
            loads.append(prepare(self._optimizer, parameters, strict=True, names=self._parameter_names()))
        run, claim, own = self._claim_for(None if newest is None else parse(newest, self._prefix))
        try:
            for load in reversed(loads):  # the optimizer first: only there torch can still find what it does not take
                load.apply()
        except BaseException:
            claim.release()
            raise
        now = self._clock.now_seconds()
        self._begin(run, claim, own, Progress(resumed.epoch, resumed.step, resumed.global_step, now))
        return resumed

    def _claim_for(self, name: CheckpointName | None) -> tuple[int, Lock, list[Record]]:
        """Claim the run that `name` is the newest checkpoint of, or else a new one."""
        if name is not None:
            claim = records.claim_run(self._storage, self._prefix, name.run)
            own = records.records(self._storage, self._prefix, name.run)
            if own and own[-1].name == name:
                return name.run, claim, own
            claim.release()  # another process has gone on with it, and ended, since it was looked at
        return *records.claim_next_run(self._storage, self._prefix), []

    def _is_newest(self, text: str) -> bool:
        name = parse(text, self._prefix)
        unreadable: list[object] = []
        own = [] if name is None else records.records(self._storage, self._prefix, name.run, unreadable.append)
        return bool(own) and own[-1].name == name and not unreadable

    def _parameter_names(self) -> dict[int, str]:
        names = modules.parameter_names(self._net)
        for prefix, module in self._beside.items():
            names = modules.parameter_names(module, prefix) | names
        return names

    def _begin(self, run: int, claim: Lock, own: list[Record], last_save: Progress) -> None:
        # Also when the manager is dropped without a close, and at the end of the process.
        self._give_back = weakref.finalize(self, claim.release)
        self._run = run
        self._records = own
        self._last_attempt = last_save
        self._saved_step = own[-1].global_step if own else None
        self._last_moment = None
        self._told.clear()
        records.sweep(self._storage, self._prefix)

    def _progress(self, moment: Moment) -> Progress:
        return Progress(moment.epoch, moment.step, moment.global_step, self._clock.now_seconds())


def _tell(passed_over: list[MilepostError]) -> None:
    for error in passed_over:
        warnings.warn(f"passed over, and kept: {error}", stacklevel=3)


def check_directory(directory: str | os.PathLike[str]) -> Path:
    """Return the folder as an absolute path, or raise `SettingError` if nothing can be written there."""
    path = Path(directory).absolute()
    existing = next(parent for parent in [path, *path.parents] if parent.exists())
    if not str(directory):
        found = "an empty path"
    elif not existing.is_dir():
        found = f"{path}, where {existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        found = f"{path}, where {existing} cannot be written to"
    else:
        return path
    raise SettingError(
        "directory", found=found, expected="a folder that can be written to or made", remedy="Give another one."
    )
