"""Callbacks that print: the loss, the time, what checkpoints cost. What they print is not kept by them."""

from __future__ import annotations

import math
import time
from types import TracebackType

from milepost.errors import TrainingError
from milepost.train.checkpoint import ModelCheckpoint
from milepost.train.lifecycle import Callback, RunContext, whole_number


class LossMonitor(Callback):
    """Prints a training's loss, ``epoch: 1 step: 3, loss is 1.23``, and ends it if the loss is not a finite number.

    Args:
        per_print_times: Steps from one line to the next; 0 prints nothing and only watches.

    Raises:
        SettingError: `per_print_times` is no whole number, or negative.
        TrainingError: The loss (at a step) is NaN or infinite.
    """

    def __init__(self, per_print_times: int = 1) -> None:
        self._per_print_times = whole_number("per_print_times", per_print_times, least=0)

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Look at the step's loss, and print it when it is its turn."""
        params = run_context.original_args()
        if params.net_outputs is None:
            return
        loss = params.net_outputs.item()
        step = f"epoch: {params.cur_epoch_num} step: {params.cur_step_in_epoch}"
        if not math.isfinite(loss):
            raise TrainingError(
                step,
                found=f"the loss {loss}",
                expected="a finite number",
                remedy="Lower the learning rate, clip the gradients, or look for bad values in the data.",
            )
        if self._per_print_times and params.cur_step_num % self._per_print_times == 0:
            print(f"{step}, loss is {loss}", flush=True)


class TimeMonitor(Callback):
    """Prints how long each epoch took: ``Train epoch time: 123.456 ms, per step time: 1.234 ms``.

    Args:
        data_size: Steps to share the epoch's time among; None takes the steps that ran.

    Raises:
        SettingError: `data_size` is no whole number, or less than 1.
    """

    def __init__(self, data_size: int | None = None) -> None:
        self._data_size = None if data_size is None else whole_number("data_size", data_size, least=1)
        self._started_seconds = 0.0
        self._steps_before = 0

    def epoch_begin(self, run_context: RunContext) -> None:
        """Start the clock."""
        self._steps_before = run_context.original_args().cur_step_in_epoch
        self._started_seconds = time.perf_counter()

    def epoch_end(self, run_context: RunContext) -> None:
        """Print the epoch's time."""
        epoch_milliseconds = (time.perf_counter() - self._started_seconds) * 1000
        params = run_context.original_args()
        steps = self._data_size or max(1, params.cur_step_in_epoch - self._steps_before)
        print(
            f"{params.mode.title()} epoch time: {epoch_milliseconds:5.3f} ms, "
            f"per step time: {epoch_milliseconds / steps:5.3f} ms",
            flush=True,
        )


class SaveMonitor(Callback):
    """Prints what each checkpoint cost, ``CKP-1_32.ckpt: 0.003 s in the step, ...``, and at the end all of them.

    A checkpoint that is written beside the training is told of at the first step after it is durable.
    """

    def __init__(self) -> None:
        self._savers: list[tuple[ModelCheckpoint, int]] = []

    def on_train_begin(self, run_context: RunContext) -> None:
        """Find what saves the training."""
        callbacks = run_context.original_args().list_callback
        self._savers = [(each, 0) for each in callbacks if isinstance(each, ModelCheckpoint)]

    def on_train_step_end(self, run_context: RunContext) -> None:  # noqa: ARG002 (the life cycle's signature)
        """Tell of a checkpoint that has become durable."""
        self._tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell()
        for saver, count in self._savers:
            if count:
                print(f"{saver.prefix}: {saver.stats}", flush=True)
        self._savers = []

    def _tell(self) -> None:
        for place, (saver, count) in enumerate(self._savers):
            stats = saver.stats
            if stats.saved > count:
                print(stats.last, flush=True)
                self._savers[place] = saver, stats.saved
