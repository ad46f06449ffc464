"""`TrainingProgress`: the loops over epochs and batches, begun anew or gone on with. Nothing is saved here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from milepost.catalog.ledger import Report
from milepost.errors import SettingError, SettingTypeError, TrainingError
from milepost.moment import Moment, Resumed
from milepost.state import random

Batch = TypeVar("Batch")


class TrainingProgress:
    """Where a training stands, and the loops that count it: `CheckpointManager.resume` and `start` return one.

    Attributes:
        epoch: The current epoch, from 1; 0 before the first.
        step: Batches of this epoch that were drawn.
        global_step: Batches of all epochs that were drawn.
        steps_per_epoch: Batches of a whole epoch, where the loader says so; else None.
        history: What was reported so far, oldest first.
        on_epoch_end: What `epochs` calls when an epoch's body has come to its end.
        where: The checkpoint that the training goes on from, for messages; None for a fresh start.

    Example:
        >>> progress = TrainingProgress()
        >>> for epoch in progress.epochs(2):
        ...     for batch in progress.steps(["a", "b"]):
        ...         print(epoch, progress.step, progress.global_step, batch)
        1 1 1 a
        1 2 2 b
        2 1 3 a
        2 2 4 b
    """

    def __init__(
        self,
        resumed: Resumed | None = None,
        *,
        loader: Iterable[Any] | None = None,
    ) -> None:
        self.epoch = 0
        self.step = 0
        self.global_step = 0
        self.steps_per_epoch: int | None = None
        self.history: list[Report] = []
        self.where: str | None = None
        self._loader = loader
        self.on_epoch_end: list[Callable[[], None]] = []
        self._resumed = resumed
        self._epoch_start: Mapping[str, Any] | None = None
        self._drawn_from: object = None
        self._is_in_epochs = self._is_in_steps = self._is_cut = False
        self._is_exhausted = self._is_body_done = False
        if resumed is not None:
            self.where = resumed.where
            self.history = list(resumed.history)
            self.epoch, self.step, self.global_step = resumed.epoch, resumed.step, resumed.global_step

    def __repr__(self) -> str:
        where = "" if self.where is None else f", where={self.where!r}"
        return f"TrainingProgress(epoch={self.epoch}, step={self.step}, global_step={self.global_step}{where})"

    def begin_after(self, epochs: int) -> None:
        """Count `epochs` epochs as done, before a fresh start."""
        self.epoch = epochs + 1

    def epochs(self, total: int) -> Iterator[int]:
        """Give the numbers of the epochs that are still to do, from 1 or where the training goes on, up to `total`.

        What the loop's body does after its batches (a scheduler's step, a validation) belongs to the epoch: an epoch's
        last step is saved, if it is due, when the body has come to its end.

        Args:
            total: The number of the last epoch.
        """
        if not isinstance(total, int):
            raise SettingTypeError(
                "epochs", found=repr(total), expected="the number of the last epoch", remedy="Give an int."
            )
        self._is_in_epochs = self._is_cut = True
        try:
            for epoch in range(max(1, self.epoch + self._is_body_done), total + 1):
                self._begin_epoch(epoch)
                yield epoch
                self._is_body_done = True
                for act in self.on_epoch_end:
                    act()
            self._is_cut = False
        finally:
            self._is_in_epochs = False

    def steps(self, loader: Iterable[Batch] | None = None) -> Iterator[Batch]:
        """Give the batches of an epoch that are still to do, and count them.

        In the first epoch after a resume the batches come in the order of the interrupted epoch, without those that
        were done, and the random state is that of the moment of the save. A loader with ``state_dict`` and
        ``load_state_dict`` (torchdata's `StatefulDataLoader`) goes to its place by itself. Of a `DataLoader` without
        workers over a data set with indices, what was done is not loaded again; of any other it is drawn and dropped,
        so that the random states of its workers go on exactly, too.

        Args:
            loader: Gives the epoch's batches at each iteration; by default the manager's.

        Raises:
            LoadError: The epoch is of another length than the one that is gone on with.
            TrainingError: The loader gives fewer batches than were done before, or is an iterator that is used up.
        """
        source: Any = self._loader if loader is None else loader
        if source is None:
            raise SettingError(
                "loader", found="none", expected="where the batches come from", remedy="Write progress.steps(loader)."
            )
        if not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
            raise SettingTypeError(
                "loader", found=repr(source), expected="what can be iterated over", remedy="Give a loader or a list."
            )
        if not self._is_in_epochs and (self.epoch == 0 or self._drawn_from is not None):
            self._begin_epoch(self.epoch + 1)
        was_drawn_from = self._drawn_from is source
        batches = self._begin_batches(source)
        self._is_in_steps = True
        try:
            for batch in batches:
                self.step += 1
                self.global_step += 1
                yield batch
            self._is_exhausted = True
            if self.step == 0 and was_drawn_from and batches is source:
                raise used_up()
        finally:
            self._is_in_steps = False

    @property
    def is_at_last_step(self) -> bool:
        """Whether the loader has no more batches for this epoch, as far as its length tells."""
        return self._is_exhausted or self.step == self.steps_per_epoch

    @property
    def is_cut(self) -> bool:
        """Whether the loop over epochs was begun, and left, if it was, before its end."""
        return self._is_cut

    @property
    def is_left(self) -> bool:
        """Whether loops were begun here, and all of them have been left."""
        return self._drawn_from is not None and not self._is_in_epochs and not self._is_in_steps

    @property
    def is_in_tail(self) -> bool:
        """Whether the lines of `epochs` that follow an epoch's last batch have begun, and not come to their end."""
        return self._is_cut and self._is_exhausted and not self._is_body_done

    @property
    def waits_for_epoch_end(self) -> bool:
        """Whether a save is better made later, when the epoch's body has come to its end."""
        return self._is_in_epochs and self.is_at_last_step and not self._is_body_done

    def count_step(self) -> None:
        """Count a step of a loop that does not draw its batches from `steps`.

        Raises:
            TrainingError: It is the first of a training that goes on within batches that were drawn from there.
        """
        if not self._is_in_steps:
            self._check_undrawn()
            self._epoch_start = self.steps_per_epoch = None  # the epoch is no longer that of the loader
            self.epoch = max(1, self.epoch)
            self.step += 1
            self.global_step += 1

    def moment(self, metrics: Mapping[str, Any], inputs: tuple[torch.Tensor, ...] = ()) -> Moment:
        """Return where the training stands, as a value."""
        return Moment(
            epoch=max(1, self.epoch),
            step=self.step,
            global_step=self.global_step,
            steps_per_epoch=self.steps_per_epoch,
            metrics=metrics,
            loader=self._drawn_from,
            epoch_start=self._epoch_start,
            inputs=inputs,
            # At the last step the rest of the body of `epochs` is still to do; a resume must lead back to it.
            is_epoch_done=self._is_body_done or (False if self._is_in_epochs and self._is_in_steps else None),
            history=tuple(self.history),
        )

    def up_to_date(self, moment: Moment) -> Moment:
        """Return the moment with what has happened since its step: what was reported, and the epoch's end."""
        if moment.global_step != self.global_step:
            return moment
        now = self.moment(moment.metrics, moment.inputs)
        return replace(moment, is_epoch_done=now.is_epoch_done, history=now.history, random=None)

    def finish_epoch(self) -> None:
        """Count the epoch as done if its batches are: the loop over epochs was left in its last lines."""
        self._is_body_done = self._is_body_done or self.is_at_last_step

    def _check_undrawn(self) -> None:
        """Tell of a first step after a resume whose batch was not drawn from `steps`, in the middle of an epoch."""
        resumed = self._resumed
        if resumed is None or not resumed.step:
            return
        where = f"the first step after {self.where}"
        if resumed.is_drawn:
            raise TrainingError(
                where,
                found="a batch from elsewhere",
                expected=f"one of those that follow the first {resumed.step} of epoch {resumed.epoch}",
                remedy="Write: for batch in progress.steps(loader). A second manager counts with the first: after its "
                "own resume(), call its follow(progress).",
            )
        self._resumed = None
        if self._is_in_epochs:  # a loop without either has to know where it is
            warnings.warn(
                f"{where}: {resumed.step} steps of epoch {resumed.epoch} are done, and done again, unless the loop "
                "leaves out their batches. Draw these, or their numbers, from progress.steps, which does so.",
                stacklevel=5,
            )

    def _begin_epoch(self, epoch: int) -> None:
        if epoch != self.epoch or self._is_body_done:
            self.step = 0
        if self._resumed is not None and epoch != self._resumed.epoch:
            self._resumed = None
        self.epoch = epoch
        self._epoch_start = None
        self._is_exhausted = self._is_body_done = False

    def _begin_batches(self, loader: Any) -> Iterator[Any]:
        """Make the epoch's iterator, without the batches that are behind a training that goes on.

        The order of the batches follows from the random state that the iterator is made in, so a resumed training makes
        it in the state that the saved one did, and then sets the state of the moment of the save.
        """
        resumed, self._resumed = self._resumed, None
        self.steps_per_epoch = _length(loader)
        self._drawn_from = loader
        if resumed is None:
            self._epoch_start = random.capture(loader)
            batches: Iterator[Any] = iter(loader)
            return batches
        resumed.check_epoch(self.steps_per_epoch)
        resumed.restore_before_batches(loader)
        self._epoch_start = random.capture(loader)
        if resumed.loader_state is not None and keeps_state(loader):
            resumed.restore_loader(loader)
            batches = iter(loader)
        else:
            batches = iter(loader)
            self._drop(batches, loader, resumed.step)
        resumed.restore_after_dropped(loader)
        return batches

    def _drop(self, batches: Iterator[Any], loader: object, behind: int) -> None:
        draws_indices = (
            isinstance(loader, DataLoader)
            and loader.num_workers == 0
            and not isinstance(loader.dataset, IterableDataset)
            and hasattr(batches, "_next_index")
        )
        # An iterator of a DataLoader asks its sampler first, and then the data set, which need not be asked here.
        indices = iter(batches._next_index, None) if draws_indices else batches  # type: ignore[attr-defined]
        dropped = sum(1 for _ in islice(_until_stop(indices), behind))
        if dropped < behind:
            raise TrainingError(
                "the data set",
                found=f"{dropped} batches",
                expected=f"more than the {behind} that were done of this epoch before",
                remedy="Give the data set, and the batch size, that the training began with.",
            )


def used_up() -> TrainingError:
    """The error for an epoch without a batch, where there were some before."""
    return TrainingError(
        "the data set",
        found="an iterator that is used up",
        expected="batches anew for every epoch",
        remedy="Give a list, a DataLoader, or an object whose __iter__ begins again.",
    )


def keeps_state(thing: object) -> bool:
    """Whether an object has ``state_dict`` and ``load_state_dict``: a loader with them knows its place in the data."""
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def _until_stop(items: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            yield next(items)
        except StopIteration:
            return


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # also from a DataLoader over a stream
        return None
