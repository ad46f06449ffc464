"""The seam between a training and those who watch it: callbacks, and what they are told. No loop is run here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor

from milepost.errors import SettingError, SettingTypeError


class Callback:
    """Is called at fixed moments of a training or an evaluation; override what you need.

    One training calls, for each callback in the order of the list (but those with `is_called_last` after the others)::

        __enter__
        on_train_begin
            on_train_epoch_begin                       before the data set's iterator is made
                on_train_step_begin, on_train_step_end for every batch
            on_train_epoch_end
        on_train_end
        __exit__                                       also if an exception ends the training; then no on_train_end

    An evaluation calls the same with ``on_eval_`` for its one epoch. Each of these calls the short name by default
    (`begin`, `epoch_begin`, `step_begin`, `step_end`, `epoch_end`, `end`): override a short name to act in
    both, a long one to act in one.

    Example:
        >>> class StopEarly(Callback):
        ...     def step_end(self, run_context):
        ...         if run_context.original_args().net_outputs < 0.1:
        ...             run_context.request_stop()

    Source: mindspore.train.Callback, MindSpore 2.10; the short names are those of MindSpore 0.6.
    """

    is_called_last = False
    """True for a callback that records what the others have done, such as one that saves the training."""

    def __enter__(self) -> Callback:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return None

    def begin(self, run_context: RunContext) -> None:
        """Before the first epoch."""

    def epoch_begin(self, run_context: RunContext) -> None:
        """Before each epoch, when no batch of it is drawn."""

    def step_begin(self, run_context: RunContext) -> None:
        """Before each step, when its batch is drawn."""

    def step_end(self, run_context: RunContext) -> None:
        """After each step."""

    def epoch_end(self, run_context: RunContext) -> None:
        """After each epoch, a stopped one included."""

    def end(self, run_context: RunContext) -> None:
        """After the last epoch, a stopped training included."""

    def on_train_begin(self, run_context: RunContext) -> None:
        """`begin`, of a training."""
        self.begin(run_context)

    def on_train_epoch_begin(self, run_context: RunContext) -> None:
        """`epoch_begin`, of a training."""
        self.epoch_begin(run_context)

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """`step_begin`, of a training."""
        self.step_begin(run_context)

    def on_train_step_end(self, run_context: RunContext) -> None:
        """`step_end`, of a training."""
        self.step_end(run_context)

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        """`epoch_end`, of a training."""
        self.epoch_end(run_context)

    def on_train_end(self, run_context: RunContext) -> None:
        """`end`, of a training."""
        self.end(run_context)

    def on_eval_begin(self, run_context: RunContext) -> None:
        """`begin`, of an evaluation."""
        self.begin(run_context)

    def on_eval_epoch_begin(self, run_context: RunContext) -> None:
        """`epoch_begin`, of an evaluation."""
        self.epoch_begin(run_context)

    def on_eval_step_begin(self, run_context: RunContext) -> None:
        """`step_begin`, of an evaluation."""
        self.step_begin(run_context)

    def on_eval_step_end(self, run_context: RunContext) -> None:
        """`step_end`, of an evaluation."""
        self.step_end(run_context)

    def on_eval_epoch_end(self, run_context: RunContext) -> None:
        """`epoch_end`, of an evaluation."""
        self.epoch_end(run_context)

    def on_eval_end(self, run_context: RunContext) -> None:
        """`end`, of an evaluation."""
        self.end(run_context)


@dataclass
class CallbackParams:
    """What a callback is told; one object for a whole run, whose later fields change as it goes.

    Args:
        mode: ``"train"`` or ``"eval"``.
        network: The network.
        loss_fn: The loss, or None where the network returns it.
        optimizer: The optimizer; None in an evaluation.
        train_dataset: The training's data set; None in an evaluation.
        valid_dataset: The evaluation's data set; None in a training.
        list_callback: All callbacks of the run, in order.
        epoch_num: The number of the last epoch that was asked for.
        batch_num: Batches per epoch, or None where the data set has no length.
        cur_epoch_num: The current epoch, from 1.
        cur_step_num: The current step since the training began, from 1; 0 before the first.
        cur_step_in_epoch: The current step of the epoch, from 1; before its first step 0, or what a resumed training
            had done of it.
        train_dataset_element: The step's batch, on the device.
        net_outputs: The step's loss, without its graph.
        predictions: What the network made of the batch, without its graph; None where it returns the loss.
        labels: The step's labels; None where the network returns the loss.
        metrics: At the end of an evaluation, its result.

    Source: cb_params of mindspore.train.RunContext, MindSpore 2.10, without what is MindSpore's own (parallel_mode,
    device_number, dataset_sink_mode), and with cur_step_in_epoch, predictions and labels in addition.
    """

    mode: Literal["train", "eval"]
    network: torch.nn.Module
    loss_fn: Any = None
    optimizer: torch.optim.Optimizer | None = None
    train_dataset: Iterable[Any] | None = None
    valid_dataset: Iterable[Any] | None = None
    list_callback: Sequence[Callback] = ()
    epoch_num: int = 1
    batch_num: int | None = None
    cur_epoch_num: int = 1
    cur_step_num: int = 0
    cur_step_in_epoch: int = 0
    train_dataset_element: Any = None
    net_outputs: Tensor | None = None
    predictions: Any = None
    labels: Any = None
    metrics: dict[str, float] | None = None

    @property
    def train_network(self) -> torch.nn.Module:
        """The network, under the name that MindSpore's callbacks use in a training."""
        return self.network

    @property
    def eval_network(self) -> torch.nn.Module:
        """The network, under the name that MindSpore's callbacks use in an evaluation."""
        return self.network


class RunContext:
    """What a callback is handed: the facts of the run, and the way to stop it."""

    def __init__(self, original_args: CallbackParams) -> None:
        self._original_args = original_args
        self._is_stop_requested = False

    def original_args(self) -> CallbackParams:
        """Return the facts of the run (``cb_params``)."""
        return self._original_args

    def request_stop(self) -> None:
        """End the run after this step; `epoch_end` and `end` are still called."""
        self._is_stop_requested = True

    def get_stop_requested(self) -> bool:
        """Whether a stop was requested."""
        return self._is_stop_requested


class CallbackList:
    """The callbacks of one run, called in order; as a context it enters all of them and surely leaves them again."""

    def __init__(self, callbacks: Callback | Sequence[Callback] | None, params: CallbackParams) -> None:
        params.list_callback = _as_callbacks(callbacks)
        self._callbacks = sorted(params.list_callback, key=lambda callback: callback.is_called_last)
        self._params = params
        self.context = RunContext(params)
        self._exits = ExitStack()

    def __enter__(self) -> CallbackList:
        with ExitStack() as exits:
            for callback in self._callbacks:
                exits.enter_context(callback)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._exits.__exit__(kind, error, trace)

    @contextmanager
    def during(self, params: CallbackParams) -> Iterator[CallbackList]:
        """The same callbacks, entered already, for an evaluation in the middle of the run.

        A stop that is requested at its end is one of the run.
        """
        inner = CallbackList(self._params.list_callback, params)
        yield inner
        if inner.context.get_stop_requested():
            self.context.request_stop()

    def call(self, moment: Literal["begin", "epoch_begin", "step_begin", "step_end", "epoch_end", "end"]) -> None:
        """Call each callback at `moment` of this mode of run."""
        for callback in self._callbacks:
            getattr(callback, f"on_{self._params.mode}_{moment}")(self.context)


def _as_callbacks(callbacks: object) -> list[Callback]:
    given = [] if callbacks is None else callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return [_as_callback(each) for each in given]


def _as_callback(given: object) -> Callback:
    if isinstance(given, Callback):
        return given
    raise SettingTypeError(
        "callbacks",
        found=f"{given!r} of type {type(given).__name__}",
        expected="a Callback, a list of them, or None",
        remedy="Derive it from milepost.train.callback.Callback, and give an instance, not the class.",
    )


def whole_number(field: str, value: object, *, least: int) -> int:
    """Return `value` if it is an int of at least `least`; refuse it with the field's name otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise SettingTypeError(
            field,
            found=f"{value!r} of type {type(value).__name__}",
            expected=f"a whole number, {least} or more",
            remedy="Give an int.",
        )
    if value < least:
        raise SettingError(field, found=repr(value), expected=f"{least} or more", remedy="Give such a number.")
    return int(value)
