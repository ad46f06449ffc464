"""A progress bar for `Model`, over rich. It only shows what callbacks are told; nothing is decided here."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor

from milepost.errors import MissingExtraError
from milepost.train.lifecycle import Callback, CallbackParams, RunContext
from milepost.train.metrics import hits

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["ProgressBar"]

_REFRESH_SECONDS = 0.2


class ProgressBar(Callback):
    """Shows each epoch as a bar: steps, mean loss, accuracy (where the loss is one for classification), time left.

    On a terminal the bar moves; elsewhere, in a file or a pipe, each epoch becomes one line of text when it is over.
    Where the data set has no length, there are steps but no end. After a resume within an epoch the bar begins at
    the step where the training goes on, and the means are over the steps since.

    Raises:
        MissingExtraError: rich is not installed.
    """

    def __init__(self) -> None:
        try:
            from rich.console import Console
        except ImportError:
            raise MissingExtraError.of("a progress bar", extra="progress", missing="rich") from None
        self._console = Console()
        self._bar: Progress | None = None
        self._figures = _Figures()
        self._started = self._shown = 0.0

    def epoch_begin(self, run_context: RunContext) -> None:
        """Begin the epoch's bar."""
        self._figures = _Figures()
        self._started = self._shown = time.monotonic()
        if self._console.is_interactive:
            self._bar = self._new_bar(run_context.original_args())
            self._bar.start()

    def step_end(self, run_context: RunContext) -> None:
        """Move the bar on."""
        params = run_context.original_args()
        self._figures.add(params)
        # Showing figures waits for the device to have computed them, so not every step shows them.
        if self._bar and time.monotonic() - self._shown >= _REFRESH_SECONDS:
            self._show(self._bar, params)

    def epoch_end(self, run_context: RunContext) -> None:
        """End the bar, or print the epoch's line."""
        params = run_context.original_args()
        if self._bar:
            self._show(self._bar, params)
            self._stop()
        else:
            steps = f"{params.cur_step_in_epoch}/{params.batch_num or params.cur_step_in_epoch} steps"
            seconds = f"{time.monotonic() - self._started:.1f} s"
            texts = [steps, *self._figures.texts(), seconds]
            print(f"{_title(params)}: {', '.join(texts)}", flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An exception must not leave the terminal without its cursor.
        self._stop()

    def _new_bar(self, params: CallbackParams) -> Progress:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console,
        )
        bar.add_task(_title(params), total=params.batch_num, completed=params.cur_step_in_epoch, figures="loss ...")
        return bar

    def _show(self, bar: Progress, params: CallbackParams) -> None:
        self._shown = time.monotonic()
        bar.update(bar.task_ids[0], completed=params.cur_step_in_epoch, figures="  ".join(self._figures.texts()))

    def _stop(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


def _title(params: CallbackParams) -> str:
    return f"Epoch {params.cur_epoch_num}/{params.epoch_num}" if params.mode == "train" else "Evaluation"


class _Figures:
    """Running means, added up where the batches are, so that no step waits for the device."""

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self._steps = 0
        self._hits: Tensor | None = None
        self._labels = 0

    def add(self, params: CallbackParams) -> None:
        if params.net_outputs is not None:
            self._loss = params.net_outputs.float() if self._loss is None else self._loss + params.net_outputs
            self._steps += 1
        is_hit = hits(params.predictions, params.labels, params.loss_fn)
        if is_hit is not None:
            self._hits = is_hit.sum() if self._hits is None else self._hits + is_hit.sum()
            self._labels += is_hit.numel()

    def texts(self) -> list[str]:
        texts = []
        if self._loss is not None:
            texts.append(f"loss {self._loss.item() / self._steps:.4f}")
        if self._hits is not None and self._labels:
            texts.append(f"accuracy {self._hits.item() / self._labels:.1%}")
        return texts
