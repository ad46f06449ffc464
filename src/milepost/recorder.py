"""`Recorder`: makes moments of a training checkpoints of its run. When, is decided elsewhere.

One save is in flight at most. Only when its file is durable is it counted, and only then do expired ones go.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from pathlib import Path

from milepost import origin
from milepost.catalog.ledger import Report
from milepost.catalog.names import CheckpointName
from milepost.catalog.records import Record
from milepost.checkpoint.saving import append
from milepost.clock import Clock
from milepost.config import CheckpointConfig
from milepost.errors import SettingError
from milepost.format.collector import paused
from milepost.graphs.meta import graph_meta
from milepost.moment import Moment
from milepost.run import Refusals, Run
from milepost.saver import Saver
from milepost.state.snapshot import Snapshot
from milepost.storage.base import Stat
from milepost.storage.local import LocalStorage
from milepost.training_state import TrainingState


class Recorder:
    """Records moments, in one run after another.

    Args:
        storage: The folder.
        prefix: The training's name.
        config: How to save, and what to keep.
        state: Everything that is trained.
        clock: Where the time comes from.

    Attributes:
        run: The run that is recorded, or was last; None before the first.
        saver: What writes the files.
        refusals: What is done where the file system refuses.
        lock: Held while a checkpoint is begun: threads take turns.
    """

    def __init__(
        self, storage: LocalStorage, prefix: str, config: CheckpointConfig, state: TrainingState, clock: Clock
    ) -> None:
        self.run: Run | None = None
        self.saver = Saver(storage, config.save_mode(), state.optimizers(), checks=config.check_snapshots)
        self.refusals = Refusals(config.on_error)
        self.lock = threading.RLock()
        self._storage = storage
        self._prefix = prefix
        self._config = config
        self._state = state
        self._clock = clock
        self._begun: tuple[CheckpointName, int | None] | None = None

    @property
    def records(self) -> list[Record]:
        """The run's checkpoints that are durable and kept, oldest first."""
        return [] if self.run is None else self.run.records

    @property
    def is_running(self) -> bool:
        """Whether there is a run that is this process's own."""
        return self.run is not None and self.run.is_claimed

    def claim(self, after: CheckpointName | None) -> Run:
        """Claim a run, to be begun or given back; the arguments and errors are those of `Run`."""
        return Run(self._storage, self._prefix, self._config, self.refusals, after)

    def begin(self, run: Run) -> None:
        """Record this run from now on."""
        # Also when the recorder is dropped without an end, and at the end of the process.
        weakref.finalize(self, _give_back, self.saver, run)
        self.run = run
        self.refusals.forget()
        run.begin()

    def is_begun(self, moment: Moment) -> bool:
        """Whether the newest checkpoint, durable or in flight, is of this moment's step."""
        if not self.saver.is_busy:
            own = self.records
            self._begun = (own[-1].name, own[-1].global_step) if own else None
        return self._begun is not None and self._begun[1] == moment.global_step

    def would_be_best(self, moment: Moment) -> bool:
        """Whether a checkpoint of this moment, of which there is none yet, would be among the best."""
        if self.run is None or self.is_begun(moment):
            return False
        name, created = self.run.name(moment.epoch, moment.step), self._clock.unix_seconds()
        return self.run.would_be_best(Record(name, created, 0, moment.global_step, moment.figures()))

    def report(self, report: Report) -> bool:
        """Add what was measured to the checkpoint of its step, and return whether there is one, or one is coming."""
        if self.run is None:
            return False
        if not self.saver.is_busy:
            self.run.expect(None)
        return self.run.report(report)

    def save(self, moment: Moment, suffix: str = "", *, has_place: bool, at_once: bool = False) -> Path:
        """Make the moment a checkpoint, unless it is one; for the rest, as `CheckpointManager.save`.

        Args:
            moment: Where the training stands.
            suffix: What its name says beside that.
            has_place: Whether its loader keeps its place in the data, and still is where it was then.
            at_once: Whether to return only when it is durable.
        """
        began = time.perf_counter()
        run = self.run
        if run is None or not run.is_claimed:
            raise SettingError(
                "CheckpointManager",
                found="a save before the beginning",
                expected="a run",
                remedy="Call start() or resume() first.",
            )
        if at_once or not self.is_begun(moment):
            self.saver.wait()
        failure = self.take_failure()
        if not self.is_begun(moment):
            if not run.records:
                self._add_graph(run, moment)
                began = time.perf_counter()  # the graph is written once, and is no part of what a checkpoint costs
            self._write(run, moment, suffix, began, has_place=has_place, at_once=at_once)
        if failure is not None and at_once:  # what is saved now is newer
            warnings.warn(f"an earlier checkpoint was not saved: {failure}", stacklevel=2)
        else:
            self.surface(failure)
        assert self._begun is not None
        return self._storage.directory / self._begun[0].text

    def take_failure(self) -> BaseException | None:
        """Return what failed in the background, once."""
        with self.lock:
            failure = self.saver.take_failure()
            if self.run is not None and not self.saver.is_busy:
                self.run.expect(None)
            return failure

    def surface(self, failure: BaseException | None) -> None:
        """Raise or tell what failed."""

        def fail() -> None:
            if failure is not None:
                raise failure

        self.refusals.attempt(fail)

    def end(self) -> BaseException | None:
        """Finish what was begun, give the run back, and return what failed."""
        self.saver.wait()
        failure = self.take_failure()
        self.saver.close()
        if self.run is not None:
            self.run.release()
        return failure

    @paused()
    def _write(self, run: Run, moment: Moment, suffix: str, began: float, *, has_place: bool, at_once: bool) -> None:
        name = run.name(moment.epoch, moment.step, suffix)
        created = self._clock.unix_seconds()
        metrics = moment.figures()
        snapshot = Snapshot()
        self._state.take(snapshot)
        append(snapshot, self._config.appended(moment.epoch, moment.global_step))
        moment.take(snapshot, has_place=has_place)
        facts = {"run": {"prefix": self._prefix, "ordinal": run.ordinal}, **moment.facts(created, metrics)}
        if self._config.dialect is not None:
            facts |= self._state.speak(snapshot, self._config.dialect, moment.global_step)
        refusals, net, storage, global_step = self.refusals, self._state.net, self._storage, moment.global_step

        def then(stat: Stat) -> None:  # also in a thread that outlives this recorder
            refusals.forget()
            if net is not None:
                origin.saved(net, storage, name.text)
            run.add(Record(name, created, stat.nbytes, global_step, metrics))

        run.expect(global_step)
        self._begun = name, global_step
        self.saver.save(name.text, snapshot, facts, then, began=began, at_once=at_once)

    def _add_graph(self, run: Run, moment: Moment) -> None:
        net = self._state.net
        if net is not None and moment.inputs:
            run.add_graph(lambda facts: graph_meta(net, moment.inputs, metadata=facts))


def _give_back(saver: Saver, run: Run) -> None:
    failure = saver.take_failure()
    if failure is not None:
        warnings.warn(f"a checkpoint was not saved: {failure}", stacklevel=2)
    saver.when_idle(run.release)
