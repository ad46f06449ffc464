"""`CheckpointManager`: decides when to save, and what to go on from. How a save is made is known to its `Recorder`.

One resume: the newest checkpoint whose every byte is as it was saved, of the newest run.
"""

from __future__ import annotations

import os
import signal
import warnings
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed, nn
from torch.optim import Optimizer

from milepost.catalog import records
from milepost.catalog.ledger import Report
from milepost.catalog.names import BREAKPOINT, check_prefix, parse
from milepost.checkpoint.loading import open_checkpoint
from milepost.clock import Clock
from milepost.config import CheckpointConfig
from milepost.engine.sealed import SealedStorage
from milepost.errors import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    DecryptionError,
    MilepostError,
    NotACheckpointError,
    ReadError,
    SettingError,
    SettingTypeError,
)
from milepost.figures import Figures
from milepost.moment import Moment, Resumed, detached, floats
from milepost.parameters import Parameters
from milepost.paths import check_directory, check_path
from milepost.policy.save import Progress
from milepost.progress import TrainingProgress, keeps_state
from milepost.recorder import Recorder
from milepost.run import Run, Saved, tell
from milepost.saver import SaveStats
from milepost.signals import SignalWatch
from milepost.state import random
from milepost.state.report import LoadReport
from milepost.state.snapshot import Snapshot
from milepost.storage.local import LocalStorage
from milepost.training_state import TrainingState, apply
from milepost.watch import StepWatch


class CheckpointManager:
    """Saves a training by policy, keeps what is to be kept, finds it again, and goes on with it exactly.

    Args:
        directory: The folder; made when a run begins.
        net: The network: its entries are called as its parameters and buffers are.
        optimizer: Its optimizer.
        loader: Where `TrainingProgress.steps` takes the batches from, unless it is told.
        prefix: What the files' names begin with.
        config: When to save and what to keep; the defaults of `CheckpointConfig` if None.
        clock: Where the time comes from.
        **objects: Whatever else belongs to the training, by name: further modules (a discriminator, an EMA) and
            optimizers, learning-rate schedulers, a `torch.amp.GradScaler`, anything with ``state_dict`` and
            ``load_state_dict``.

    Attributes:
        progress: Where the training stands.
        reports: What the last `resume` loaded, one report for each object.

    Raises:
        SettingError: A setting cannot be meant.
        SettingTypeError: An object without ``state_dict`` and ``load_state_dict``.

    Example:
        >>> import tempfile
        >>> net = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        >>> batches = [torch.randn(4, 2) for _ in range(3)]
        >>> with CheckpointManager(tempfile.mkdtemp(), net, optimizer, scheduler=scheduler) as checkpoints:
        ...     progress = checkpoints.resume()
        ...     for epoch in progress.epochs(2):
        ...         for batch in progress.steps(batches):
        ...             optimizer.zero_grad()
        ...             loss = net(batch).square().mean()
        ...             loss.backward()
        ...             _ = optimizer.step()
        ...             checkpoints.step(loss=loss)
        ...         scheduler.step()
        >>> checkpoints.latest().name
        'CKP-2_3.ckpt'
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        net: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        *,
        loader: Iterable[Any] | None = None,
        prefix: str = "CKP",
        config: CheckpointConfig | None = None,
        clock: Clock | None = None,
        **objects: Any,
    ) -> None:
        if not isinstance(config, CheckpointConfig | None):
            raise SettingTypeError(
                "config", found=repr(config), expected="a CheckpointConfig", remedy="Build it with CheckpointConfig()."
            )
        self._prefix = check_prefix(prefix)
        self._config = config or CheckpointConfig()
        self._storage = self._folder(check_directory(directory))
        self._state = TrainingState(net, optimizer, objects)
        self._loader = loader
        self._clock = clock or Clock()
        self._recorder = Recorder(self._storage, self._prefix, self._config, self._state, self._clock)
        self._last_attempt = Progress(0, 0, 0, self._clock.now_seconds())
        self._last_moment: Moment | None = None
        self._figures = Figures(self._config.monitor)
        self._signals: SignalWatch | None = None
        self._watch: StepWatch | None = None
        self._is_between = self._is_told_of_gradients = False
        self.progress = TrainingProgress(loader=loader)
        self.reports: tuple[LoadReport, ...] = ()

    def latest(self) -> Path | None:
        """The newest checkpoint of this run that is durable, or None before the first."""
        run = self._recorder.run
        return None if run is None else run.latest()

    def best(self) -> Path | None:
        """The best checkpoint of this run by `CheckpointConfig.monitor`, or None before the first that was measured.

        With `CheckpointConfig.async_save`, one in flight counts when it is durable: call `wait` before, to be sure.

        Raises:
            SettingError: There is no monitor.
        """
        if self._config.monitor is None:
            raise SettingError(
                "CheckpointConfig.monitor",
                found="None",
                expected="the name of a metric that says what is best",
                remedy='Write CheckpointConfig(monitor="accuracy").',
            )
        run = self._recorder.run
        return None if run is None else run.best()

    def all(self) -> list[Saved]:
        """The checkpoints of this run that are kept, oldest first."""
        run = self._recorder.run
        return [] if run is None else run.all()

    @property
    def stats(self) -> SaveStats:
        """What the checkpoints of this manager cost the training; one in flight counts when it is durable."""
        return self._recorder.saver.stats

    @property
    def needs_inputs(self) -> bool:
        """Whether the network's inputs are still wanted, for its graph."""
        return not self._recorder.records and not self._recorder.saver.is_busy

    @property
    def interrupted_by(self) -> signal.Signals | None:
        """The signal that came, with `CheckpointConfig.save_on_signal`; else None."""
        return None if self._signals is None else self._signals.received

    def start(self, after: Moment | None = None) -> TrainingProgress:
        """Begin the next run of this prefix, from the state that everything is in.

        Args:
            after: Where the training stands, if not at its beginning: from there on the next save is counted.

        Returns:
            The loops to train in.

        Raises:
            SaveError: The folder cannot be made or written to.
        """
        self.close()
        self._begin(self._recorder.claim(None), self._progress(after or Moment(0, 0, 0)), None)
        return self.progress

    def resume(
        self, which: str | os.PathLike[str] = "auto", steps_per_epoch: int | None = None, *, strict: bool = True
    ) -> TrainingProgress:
        """Load a checkpoint into everything that is trained, and go on with its run.

        Args:
            which: ``auto`` for the newest checkpoint of the prefix, or a fresh start where there is none; ``must`` for
                the newest, or an error; else the path of a checkpoint. One that is not the newest of its run begins a
                new run, so that nothing of the other future is overwritten; so does one that is newest only because
                damaged ones were passed over.
            steps_per_epoch: Batches in the data set, where that is known.
            strict: Whether every name of both sides must fit. Otherwise what is new stays as it is, and what is gone is
                left; `reports` says so. Such a training does not go on exactly.

        Returns:
            The loops to train in; its `where` is the checkpoint, or None for a fresh start.

        Raises:
            CheckpointNotFoundError: There is none.
            SettingError: `which` is no path: ``best``, for example.
            DecryptionError: There are encrypted ones, and none that opens.
            LoadError: The checkpoint does not fit the network, the optimizer or another object; nothing has changed.
            RunInUseError: A living process is at work on the run.
        """
        self.close()
        if which not in ("auto", "must"):
            path = _checkpoint(which)
            is_newest = path.parent.resolve() == self._storage.directory.resolve() and records.is_newest(
                self._storage, self._prefix, path.name
            )
            with open_checkpoint(self._folder(path.parent), path.name) as parameters:
                return self._go_on(parameters, path.name if is_newest else None, steps_per_epoch, strict)
        passed_over: list[MilepostError] = []
        for record in records.newest_first(self._storage, self._prefix, lambda found: passed_over.append(found.error)):
            name = record.name.text
            try:
                with open_checkpoint(self._storage, name) as parameters:
                    parameters.verify()
                    progress = self._go_on(parameters, None if passed_over else name, steps_per_epoch, strict)
            except (DamagedCheckpointError, DecryptionError, NotACheckpointError, ReadError) as error:
                passed_over.append(error)
            else:
                tell(passed_over)
                return progress
        closed = [error for error in passed_over if isinstance(error, DecryptionError)]
        if closed:  # not one opens: that is the key, and to begin anew is not what is meant
            raise closed[0]
        tell(passed_over)
        if which == "must":
            raise CheckpointNotFoundError(
                self._storage.where(),
                found=f"no checkpoint of the prefix {self._prefix!r} that can be read",
                expected='one to go on from (resume="must")',
                remedy='Check directory and prefix, or train with resume="auto".',
            )
        return self.start()

    def follow(self, progress: TrainingProgress) -> None:
        """Save a training whose loops are those of another manager."""
        this = weakref.ref(self)  # the progress that the user holds must not keep the manager alive
        progress.on_epoch_end.append(lambda: _end_epoch(this()))
        self.progress = progress

    def restore(self, which: str | os.PathLike[str], *, strict: bool = True) -> tuple[LoadReport, ...]:
        """Load a checkpoint into everything that is trained; where the training stands, and its run, stay as they are.

        Where the loops of `progress` have been left, the last step is saved before, unless it is: what is loaded is not
        its state. Within them, it is undone by what is loaded, and not saved any more.

        Args:
            which: The path of a checkpoint, e.g. ``checkpoints.best()``.
            strict: As in `resume`.

        Returns:
            What was loaded, one report for each object.

        Raises:
            CheckpointNotFoundError: No such file.
            SettingError: `which` is no path: ``best``, for example.
            LoadError: It does not fit; nothing has changed.
            SaveError: The last step could not be saved; nothing has changed.
        """
        path = _checkpoint(which)
        self._recorder.saver.wait()  # what is being saved must not be changed
        with open_checkpoint(self._folder(path.parent), path.name) as parameters:
            loads = self._state.prepare(parameters, strict=strict)
            last = self._last_moment
            if last is not None and not self.progress.waits_for_epoch_end:  # else this is what the epoch makes of it
                if self._recorder.is_running and self.progress.is_left and not self._has_begun_another:
                    self._save_or_tell(self.progress.up_to_date(last), at_once=True)
                self._last_moment = None
            apply(loads)
        return tuple(load.report for load in loads)

    def step(self, moment: Moment | None = None, /, **metrics: Any) -> None:
        """Say that a step is done, and save if the policy says that a checkpoint is due.

        A save that is due at an epoch's last step is made when the body of ``for epoch in progress.epochs(...)`` has
        come to its end, so that the checkpoint holds what a scheduler or a validation does there.

        Args:
            moment: Where the training stands, for callers that count by themselves.
            metrics: Figures of this step, e.g. ``loss=loss``: numbers or tensors with one element.

        Raises:
            SaveError: The file system refused (but see `CheckpointConfig.on_error`), this save or, with
                `CheckpointConfig.async_save`, the one before.
            UnsupportedStateError: Something in the state cannot be stored.
            SnapshotError: With `CheckpointConfig.check_snapshots`, a tensor was written to unseen.
            SystemExit: With `CheckpointConfig.save_on_signal`, when a signal came: the step is saved.
            TrainingError: The training goes on in the middle of an epoch, and its batch is not one of
                `TrainingProgress.steps`: what is done would be done again.
        """
        if moment is None:
            self.progress.count_step()
            moment = self.progress.moment(detached(metrics))
        self._last_moment = moment = self._with_random(moment)
        if self._watch is not None:
            self._tell_gradients(self._watch)
            self._is_between, self._watch.has_begun = not self._watch.has_begun, False
        self._figures.see(moment.metrics)
        if self.interrupted_by is not None:
            self.save_breakpoint()
            text = f"{self.interrupted_by.name} ends the training; newest checkpoint: {self.latest()}"
            warnings.warn(text, stacklevel=2)
            raise SystemExit(128 + self.interrupted_by)
        self._recorder.surface(self._recorder.take_failure())
        if not self.progress.waits_for_epoch_end:
            self._save_if_due(moment)

    def step_with_inputs(self, inputs: tuple[torch.Tensor, ...], **metrics: Any) -> None:
        """As `step`, with the network's inputs as an example for its graph."""
        self.step(self.progress.moment(detached(metrics), inputs))

    def save_interrupted(self, **metrics: Any) -> None:
        """Save the step that was done when a signal came, as a breakpoint."""
        self._last_moment = self.progress.moment(detached(metrics))
        self.save_breakpoint()

    def report(self, **metrics: Any) -> None:
        """Add figures that came later, e.g. those of a validation, to the moment that the training is at.

        They count for the checkpoint of this moment, also when that is written already; a moment that is among the best
        by `CheckpointConfig.monitor` is saved if it is not yet.

        Args:
            metrics: Numbers or tensors with one element, e.g. ``accuracy=0.97``.
        """
        moment = self._last_moment or self.progress.moment({})
        values = floats(metrics)
        report = Report(moment.epoch, moment.step, moment.global_step, self._clock.unix_seconds(), values)
        self.progress.history.append(report)
        if self._last_moment is not None:
            self._last_moment = self._with_random(replace(moment, history=tuple(self.progress.history)))
        with self._recorder.lock:
            is_saved = self._recorder.report(report)
            is_over = self._has_begun_another or self.progress.waits_for_epoch_end
            if not is_saved and self._last_moment is not None and not is_over:
                self._last_moment = self._with_random(self.progress.up_to_date(self._last_moment))
                self._save_if_best(self._last_moment)

    def take_state(self, snapshot: Snapshot) -> None:
        """Gather everything that is trained, as a save does."""
        self._state.take(snapshot)

    def finish(self) -> None:
        """Save the last step, unless it is saved; durable when the call returns."""
        if self._last_moment is not None:
            if self._has_begun_another and self.progress.global_step > self._last_moment.global_step:
                self._last_moment = self.progress.moment(
                    {}
                )  # a loop that was left between the optimizer's step and ours
            self.progress.finish_epoch()
            self._save_or_tell(self.progress.up_to_date(self._last_moment), at_once=True)

    def wait(self) -> None:
        """Return when what was saved is durable.

        Raises:
            SaveError: The file system refused (but see `CheckpointConfig.on_error`).
            SnapshotError: As `step`.
        """
        self._recorder.saver.wait()
        self._recorder.surface(self._recorder.take_failure())

    def close(self) -> None:
        """Finish what was begun, and give the run back, so that it can be gone on with.

        The end of the process does so too.

        Raises:
            SaveError: As `wait`; the run is given back all the same.
            SnapshotError: As `step`.
        """
        self.close_after(None)

    def close_after(self, error: BaseException | None) -> None:
        """As `close`, but after an error a failure is only told: what ends the training matters more."""
        failure = self._end()
        if error is None:
            self._recorder.surface(failure)
            if not self.progress.is_cut:
                self._tell_missed(is_over=True)
        elif failure is not None:
            warnings.warn(f"a checkpoint was not saved: {failure}", stacklevel=2)

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._recorder.is_running:
                self.finish()
            elif self._recorder.is_running and self._config.exception_save and not isinstance(error, SystemExit):
                self.save_after_exception()
        finally:
            self.close_after(error)

    def save_after_exception(self) -> None:
        """Save the last step that was done as a breakpoint; a failure to do so is only told.

        Not where the next one has begun to change the parameters: what there is belongs to neither.
        """
        self._recorder.saver.wait()  # what is in flight may fail
        if self._last_moment is None or self._recorder.is_begun(self._last_moment):
            return
        step = self._last_moment.global_step
        if self._has_begun_another:
            warnings.warn(
                f"step {step} is not saved, because the optimizer's next one had begun before the exception; newest "
                f"checkpoint: {self.latest()}",
                stacklevel=2,
            )
            return
        if self.progress.is_in_tail:
            warnings.warn(
                f"step {step} is saved within the lines that follow the epoch's batches; a training that goes on from "
                "it does all of them again",
                stacklevel=2,
            )
        try:
            self.save_breakpoint()
        except MilepostError as failure:  # what ends the training matters more
            warnings.warn(f"the last step before the exception was not saved: {failure}", stacklevel=2)

    def save_breakpoint(self) -> None:
        """Save the last step out of turn, under a name that says so. One that is saved stays so."""
        if self._last_moment is not None:
            self._save_or_tell(self._last_moment, BREAKPOINT, at_once=True)

    def save(self, moment: Moment | None = None, /, **metrics: Any) -> Path:
        """Save now; a second save of one step returns the first. Threads take turns.

        With `CheckpointConfig.async_save` the file is there when `wait` has returned.

        After an epoch's last batch, let it be the last line of the epoch's body: a resume begins the next epoch.

        Args:
            moment: Where the training stands, for callers that count by themselves.
            metrics: Figures of this moment.

        Returns:
            The checkpoint.

        Raises:
            SaveError: The file system refused; every earlier checkpoint is as it was.
            UnsupportedStateError: Something in the state cannot be stored.
        """
        with self._recorder.lock:
            if moment is None:
                self._last_moment = moment = self.progress.moment(detached(metrics))
            return self._save(moment)

    def _save(self, moment: Moment, suffix: str = "", *, at_once: bool = False) -> Path:
        if not self._recorder.is_begun(moment):
            self._last_attempt = self._progress(moment)
            if self._is_between and self._watch is not None:
                self._watch.keep_in_mind()
        has_place = moment.global_step == self.progress.global_step and keeps_state(moment.loader)
        return self._recorder.save(moment, suffix, has_place=has_place, at_once=at_once)

    @property
    def _has_begun_another(self) -> bool:
        """Whether an optimizer has begun a step since the last that was counted."""
        return self._watch is not None and self._watch.has_begun

    def _with_random(self, moment: Moment) -> Moment:
        """The moment with its random state, where it may be saved when that is another."""
        is_now = moment.global_step == self.progress.global_step
        if not self._config.exception_save or (moment.random is not None and not is_now):
            return moment
        return replace(moment, random=random.capture(moment.loader))

    def _tell_gradients(self, watch: StepWatch) -> None:
        if watch.has_gathered and not self._is_told_of_gradients:
            self._is_told_of_gradients = True
            warnings.warn(
                "gradients are gathered over several steps, and no checkpoint holds them: a training that goes on from "
                "one between two steps of the optimizer is another. Call step() of the manager after that of the "
                "optimizer only.",
                stacklevel=3,
            )

    def _end(self) -> BaseException | None:
        """Finish what was begun, give everything back, and return what failed."""
        failure = self._recorder.end()
        if self._signals is not None:
            self._signals.__exit__(None, None, None)
            self._signals = None
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        return failure

    def _save_if_due(self, moment: Moment) -> None:
        saver = self._recorder.saver
        if not saver.is_owed and not self._config.save_policy().is_due(self._progress(moment), self._last_attempt):
            return
        if saver.is_busy and self._config.when_busy == "skip":
            self._last_attempt = self._progress(moment)
            saver.skip()
            if saver.stats.skipped == 1:
                warnings.warn(
                    f"the checkpoint of step {moment.global_step} is left out, because the one before is still being "
                    "written; stats.skipped counts what else is.",
                    stacklevel=3,
                )
        else:
            self._save_or_tell(moment)

    def _save_if_best(self, moment: Moment) -> None:
        if self._recorder.would_be_best(moment):
            self._save_or_tell(moment)

    def _epoch_end(self) -> None:
        """What `TrainingProgress.epochs` calls when an epoch's body has come to its end."""
        if self._last_moment is None or not self._recorder.is_running:
            return
        moment = self._last_moment = self._with_random(self.progress.up_to_date(self._last_moment))
        if moment.global_step == self.progress.global_step:
            self._save_if_due(moment)
            self._save_if_best(moment)
        self._tell_missed()

    def _tell_missed(self, *, is_over: bool = False) -> None:
        """Tell of a monitor that is not reported; called two levels below the user, or four within `epochs`."""
        if self._last_moment is not None and self._recorder.records:
            for record in self._recorder.records:
                self._figures.see(record.metrics)
            for report in self.progress.history:
                self._figures.see(report.metrics)
            message = self._figures.missed(is_over=is_over)
            if message is not None:
                warnings.warn(message, stacklevel=4 if is_over else 6)

    def _save_or_tell(self, moment: Moment, suffix: str = "", *, at_once: bool = False) -> None:
        def save() -> None:
            with self._recorder.lock:
                self._save(moment, suffix, at_once=at_once)

        self._recorder.refusals.attempt(save)

    def _folder(self, directory: str | os.PathLike[str]) -> LocalStorage:
        """A folder of checkpoints such as this manager writes."""
        return SealedStorage(directory, self._config.packaging())

    def _go_on(
        self, parameters: Parameters, newest: str | None, steps_per_epoch: int | None, strict: bool
    ) -> TrainingProgress:
        """Load, and go on with the run of the checkpoint called `newest`, or begin a new one."""
        resumed = Resumed(parameters)
        resumed.check_epoch(steps_per_epoch)
        loads = self._state.prepare(parameters, strict=strict)
        run = self._recorder.claim(None if newest is None else parse(newest, self._prefix))
        try:
            # A random state that cannot be set must be found before anything is loaded, and loading may draw from it.
            resumed.restore_random(self._loader)
            apply(loads)
            resumed.restore_random(self._loader)
        except BaseException:
            run.release()
            raise
        now = self._clock.now_seconds()
        self._begin(run, Progress(resumed.epoch, resumed.step, resumed.global_step, now), resumed)
        self.reports = tuple(load.report for load in loads)
        return self.progress

    def _begin(self, run: Run, last_save: Progress, resumed: Resumed | None) -> None:
        self._last_attempt = last_save
        self._last_moment = None
        self._recorder.begin(run)
        self._figures = Figures(self._config.monitor)
        self._is_between = self._is_told_of_gradients = False
        self._watch = StepWatch(self._state.optimizers())
        weakref.finalize(self, self._watch.close).atexit = False
        _warn_of_other_processes()
        self.follow(TrainingProgress(resumed, loader=self._loader))
        if resumed is not None:
            known = self.progress.history[:]
            self.progress.history += [each for each in run.reports_of(resumed.global_step) if each not in known]
        if self._config.save_on_signal:
            self._signals = SignalWatch()
            self._signals.__enter__()
            # A manager that is dropped must not leave a process that a signal no longer ends.
            weakref.finalize(self, self._signals.__exit__, None, None, None).atexit = False

    def _progress(self, moment: Moment) -> Progress:
        now = self._clock.now_seconds()
        return Progress(moment.epoch, moment.step, moment.global_step, now, is_epoch_end=moment.is_epoch_done is True)


def _checkpoint(which: object) -> Path:
    remedy = "Give a str or a Path; best() and latest() are None as long as there is none."
    path = check_path("which", which, remedy=remedy)
    if which in ("best", "latest", "auto", "must") and not path.exists():
        raise SettingError(
            "which",
            found=repr(which),
            expected="the path of a checkpoint",
            remedy="best() and latest() of the manager return the paths of this run's.",
        )
    return path


def _warn_of_other_processes() -> None:
    """One process saves: others of a data-parallel training would each have a run, and agree on no step."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_rank() > 0:
        warnings.warn(
            f"this is process {distributed.get_rank()} of {distributed.get_world_size()}, and saves a run of its own; "
            "processes of one training agree on no checkpoint (docs/saving.md)",
            stacklevel=4,
        )


def _end_epoch(manager: CheckpointManager | None) -> None:
    if manager is not None:
        manager._epoch_end()
