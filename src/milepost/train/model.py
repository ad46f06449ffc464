"""`Model`: trains, evaluates and applies a network. It writes no file; what is kept is the callbacks' affair."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from milepost.errors import SettingError, SettingTypeError, TrainingError
from milepost.policy.save import EverySteps
from milepost.progress import TrainingProgress
from milepost.train.batches import arguments, count_samples, length, no_batches
from milepost.train.checkpoint import ModelCheckpoint
from milepost.train.devices import (
    accelerators_of,
    choose_device,
    detach,
    is_elsewhere,
    map_leaves,
    move_state_to_parameters,
    to_device,
)
from milepost.train.lifecycle import Callback, CallbackList, CallbackParams, whole_number
from milepost.train.metrics import Metric, Scores, choose_metrics
from milepost.train.validation import Validation

__all__ = ["Model"]


@dataclass(frozen=True)
class _Outcome:
    """What one batch gave; `predictions` and `labels` stay None where the network returns its loss."""

    loss: Tensor
    predictions: Any = None
    labels: Any = None


class Model:
    """Trains, evaluates and applies a network.

    The network works where its parameters are, unless that is the CPU and the machine has an accelerator that torch
    knows: then it is moved there, with its optimizer's state. Batches are brought to it. Training and evaluation
    mode are set for the time of a call and restored for each submodule, also if the call fails.

    Args:
        network: The network. Without a `loss_fn` it takes the whole batch and returns the loss itself.
        loss_fn: Takes predictions and labels, returns a tensor with one number.
        optimizer: Updates the parameters; only `train` needs it.
        metrics: What `eval` reports beside the loss: a set of names (accuracy, precision, recall, F1,
            top_1_accuracy, top_5_accuracy, mae, mse), or a dict of name and `torchmetrics.Metric` (or any object with
            reset, update and compute). By default accuracy where the loss is one for classification.
        device: Where the network is to work, e.g. ``"cuda:1"``, instead of the choice described above.

    Raises:
        SettingTypeError: An argument of the wrong kind; it is named.
        SettingError: A metric or a device that is not known.

    Example:
        >>> from milepost.nn import CrossEntropyLoss, Momentum
        >>> network = torch.nn.Linear(4, 3)
        >>> model = Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))
        >>> batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]
        >>> model.train(2, batches)
        >>> sorted(model.eval(batches))
        ['accuracy', 'loss']
        >>> model.predict(torch.randn(1, 4)).shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        network: torch.nn.Module,
        loss_fn: Callable[..., Tensor] | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        metrics: Collection[str] | Mapping[str, Metric] | None = None,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        _check_kind("network", network, isinstance(network, torch.nn.Module), "a torch.nn.Module")
        _check_kind(
            "loss_fn",
            loss_fn,
            loss_fn is None or (callable(loss_fn) and not isinstance(loss_fn, type)),
            "a loss that can be called, e.g. CrossEntropyLoss()",
        )
        _check_kind(
            "optimizer",
            optimizer,
            optimizer is None or isinstance(optimizer, torch.optim.Optimizer),
            "a torch.optim.Optimizer",
        )
        self.network = network
        self.loss_fn = loss_fn
        self.optimizer = optimizer
        self.device = choose_device(network, device)
        self._is_spread = device is None and len(accelerators_of(network)) > 1
        self._metrics = choose_metrics(metrics, loss_fn)

    def train(
        self,
        epoch: int,
        train_dataset: Iterable[Any],
        callbacks: Callback | Sequence[Callback] | None = None,
        *,
        initial_epoch: int = 0,
        resume: Literal["auto", "must", False] | str | os.PathLike[str] = False,
    ) -> None:
        """Train the network until it has seen the data set `epoch` times.

        Each step clears the gradients, computes a batch's loss and its gradients, and lets the optimizer update. An
        optimizer may compute them more than once (`torch.optim.LBFGS` does); the step's loss is then the first.

        Args:
            epoch: The number of the last epoch, 1 or more.
            train_dataset: Gives its batches anew for every epoch, e.g. a `torch.utils.data.DataLoader`. With a loss
                function, a batch is a pair (inputs, labels), where inputs are one argument of the network, or a
                tuple or list of several. Without one, a batch is the network's arguments. NumPy arrays become
                tensors.
            callbacks: One or several; called in their order.
            initial_epoch: Epochs that are behind already; training begins with the next.
            resume: Go on from a checkpoint of the `ModelCheckpoint` among the callbacks, exactly, also in the middle
                of an epoch: ``"auto"`` from the newest one, or from the start if there is none; ``"must"`` from the
                newest one; else from the file of this path. `initial_epoch` then counts only for a start.

        Raises:
            SettingError: `epoch`, `initial_epoch`, `resume`, `callbacks` or `train_dataset` cannot be meant.
            CheckpointNotFoundError: There is nothing to go on from.
            LoadError: The checkpoint is not of this network and optimizer; they have not changed.
            TrainingError: No optimizer, or that of another network; a data set without batches, or used up after one
                epoch; a batch of another form; a loss that is not one number, or without gradient.
        """
        _check_epochs(epoch, initial_epoch)
        self._train(epoch, train_dataset, callbacks, initial_epoch, resume)

    def fit(
        self,
        epoch: int,
        train_dataset: Iterable[Any],
        valid_dataset: Iterable[Any] | None = None,
        valid_frequency: int | Sequence[int] | EverySteps = 1,
        callbacks: Callback | Sequence[Callback] | None = None,
        *,
        initial_epoch: int = 0,
        resume: Literal["auto", "must", False] | str | os.PathLike[str] = False,
    ) -> None:
        """Train as `train` does, and evaluate the network in the middle of it.

        An evaluation at an epoch's end comes before the callbacks' `epoch_end`. The callbacks see it as in `eval`; in
        `metrics` the evaluation's loss is called ``eval_loss``, to be told from the training's. A `ModelCheckpoint`
        keeps what was measured, and the best by it if `CheckpointConfig.monitor` says so.

        Args:
            epoch: The number of the last epoch, 1 or more.
            train_dataset: As in `train`.
            valid_dataset: What to evaluate on, as in `eval`; None for no evaluation.
            valid_frequency: Evaluate after every so many epochs; or after the epochs of these numbers; or, with
                ``milepost.policy.save.EverySteps(n)``, after every n steps.
            callbacks: One or several; called in their order.
            initial_epoch: As in `train`.
            resume: As in `train`.

        Raises:
            SettingError: As in `train`, or `valid_frequency` cannot be meant.
            CheckpointNotFoundError: As in `train`; so with LoadError and TrainingError.

        Example:
            >>> from milepost.nn import CrossEntropyLoss, Momentum
            >>> network = torch.nn.Linear(4, 3)
            >>> model = Model(network, CrossEntropyLoss(), Momentum(network.parameters(), 0.1, 0.9))
            >>> batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]
            >>> model.fit(2, batches, valid_dataset=batches)

        Source: mindspore.train.Model.fit, MindSpore 2.10.
        """
        _check_epochs(epoch, initial_epoch)
        validation = None if valid_dataset is None else Validation(valid_dataset, valid_frequency)
        self._train(epoch, train_dataset, callbacks, initial_epoch, resume, validation)

    def eval(
        self, valid_dataset: Iterable[Any], callbacks: Callback | Sequence[Callback] | None = None
    ) -> dict[str, float]:
        """Measure the network on a data set, without gradients; the network stays as it is.

        Args:
            valid_dataset: Gives batches as in `train`.
            callbacks: One or several; called in their order.

        Returns:
            ``loss``, the mean over the samples of what the loss function gives per batch, and each metric by name.

        Raises:
            SettingError: `callbacks` or `valid_dataset` cannot be meant.
            MissingExtraError: A metric is named, or comes by default, and torchmetrics is not installed.
            TrainingError: A data set without batches, a batch of another form, predictions and labels that do not
                fit a metric, a metric whose figure is not one number.
        """
        params = self._eval_params(valid_dataset)
        watchers = CallbackList(callbacks, params)
        with self._at_work(training=False), watchers:
            self._evaluate(valid_dataset, params, watchers)
            watchers.call("end")
        return params.metrics or {}

    def predict(self, *inputs: Any) -> Any:
        """Return what the network makes of `inputs`, tensors or NumPy arrays, in evaluation mode, without gradients."""
        with self._at_work(training=False):
            return self.network(*to_device(inputs, self.device))

    def _train(
        self,
        epoch: int,
        dataset: Iterable[Any],
        callbacks: Callback | Sequence[Callback] | None,
        initial_epoch: int,
        resume: str | os.PathLike[str] | Literal[False],
        validation: Validation | None = None,
    ) -> None:
        optimizer = self._fitting_optimizer()
        params = CallbackParams(
            mode="train",
            network=self.network,
            loss_fn=self.loss_fn,
            optimizer=optimizer,
            train_dataset=_checked_dataset("train_dataset", dataset),
            epoch_num=epoch,
            batch_num=length(dataset),
        )
        watchers = CallbackList(callbacks, params)
        with self._at_work(training=True), watchers:
            progress = self._begin(params, initial_epoch, resume)
            _follow(params, progress)
            watchers.call("begin")
            for _ in progress.epochs(0 if watchers.context.get_stop_requested() else epoch):
                self._train_epoch(optimizer, params, progress, watchers, validation)
                if watchers.context.get_stop_requested():
                    break
            watchers.call("end")

    def _train_epoch(
        self,
        optimizer: torch.optim.Optimizer,
        params: CallbackParams,
        progress: TrainingProgress,
        watchers: CallbackList,
        validation: Validation | None,
    ) -> None:
        _follow(params, progress)
        watchers.call("epoch_begin")
        for batch in progress.steps(params.train_dataset):
            _follow(params, progress)
            self._step(batch, lambda batch: self._update(optimizer, batch), params, watchers)
            if watchers.context.get_stop_requested():
                break
            if validation is not None and not progress.is_at_last_step:
                self._validate(validation, progress, watchers, is_epoch_end=False)
        if params.cur_step_in_epoch == 0:
            raise no_batches(params.train_dataset or ())
        if validation is not None and progress.is_at_last_step:
            self._validate(validation, progress, watchers, is_epoch_end=True)
        watchers.call("epoch_end")

    def _validate(
        self, validation: Validation, progress: TrainingProgress, watchers: CallbackList, *, is_epoch_end: bool
    ) -> None:
        """Evaluate if it is time to, and tell the callbacks of the training."""
        if not validation.is_due(progress.epoch, progress.global_step, is_epoch_end=is_epoch_end):
            return
        params = self._eval_params(validation.dataset)
        with self._at_work(training=False), watchers.during(params) as inner:
            self._evaluate(validation.dataset, params, inner)
            params.metrics = {
                "eval_loss" if name == "loss" else name: value for name, value in (params.metrics or {}).items()
            }
            inner.call("end")

    def _eval_params(self, dataset: Iterable[Any]) -> CallbackParams:
        return CallbackParams(
            mode="eval",
            network=self.network,
            loss_fn=self.loss_fn,
            valid_dataset=_checked_dataset("valid_dataset", dataset),
            batch_num=length(dataset),
        )

    def _evaluate(self, dataset: Iterable[Any], params: CallbackParams, watchers: CallbackList) -> None:
        """Measure one epoch, without the last call to the callbacks."""
        scores = Scores(self._metrics, self.device)

        def step(batch: Any) -> _Outcome:
            outcome = self._apply(batch)
            scores.add(outcome.loss, outcome.predictions, outcome.labels, samples=count_samples(batch))
            return outcome

        watchers.call("begin")
        watchers.call("epoch_begin")
        for batch in dataset:
            params.cur_step_num += 1
            params.cur_step_in_epoch += 1
            self._step(batch, step, params, watchers)
            if watchers.context.get_stop_requested():
                break
        if params.cur_step_in_epoch == 0:
            raise no_batches(dataset)
        watchers.call("epoch_end")
        params.metrics = scores.result()

    def _step(
        self, batch: Any, work: Callable[[Any], _Outcome], params: CallbackParams, watchers: CallbackList
    ) -> None:
        params.train_dataset_element = to_device(batch, self.device)
        # The last step's tensors would lie in memory beside those of this one.
        params.net_outputs = params.predictions = params.labels = None
        watchers.call("step_begin")
        outcome = work(params.train_dataset_element)
        params.net_outputs, params.predictions = outcome.loss, outcome.predictions
        params.labels = outcome.labels
        watchers.call("step_end")

    def _begin(
        self, params: CallbackParams, initial_epoch: int, resume: str | os.PathLike[str] | Literal[False]
    ) -> TrainingProgress:
        """Begin the runs of all who save, of which one may go on with its own, and return the training's progress."""
        if resume is not False and not isinstance(resume, str | os.PathLike):
            raise SettingTypeError(
                "resume",
                found=repr(resume),
                expected='"auto", "must", False or the path of a checkpoint',
                remedy='Give "auto" to go on where there is a checkpoint, and to start where there is none.',
            )
        savers = [callback for callback in params.list_callback if isinstance(callback, ModelCheckpoint)]
        if resume is not False and not savers:
            raise SettingError(
                "resume",
                found=f"{resume!r} without a ModelCheckpoint among the callbacks",
                expected="one, whose prefix and directory say where the checkpoints are",
                remedy="Add one to the callbacks, or load the checkpoint with load_checkpoint.",
            )
        if not savers:
            progress = TrainingProgress()
            progress.begin_after(initial_epoch)
            return progress
        first, *others = savers
        progress = first.begin_run(params, None if resume is False else resume, initial_epoch)
        for other in others:
            other.join_run(params, progress)
        return progress

    def _update(self, optimizer: torch.optim.Optimizer, batch: Any) -> _Outcome:
        first: _Outcome | None = None

        def closure() -> Any:
            nonlocal first
            optimizer.zero_grad()
            outcome = self._apply(batch)
            if not outcome.loss.requires_grad:
                raise TrainingError(
                    "the loss",
                    found="a number that depends on no parameter",
                    expected="one to compute gradients of",
                    remedy="Look for detach(), no_grad() or requires_grad=False between network and loss.",
                )
            outcome.loss.backward()  # type: ignore[no-untyped-call]
            first = first or _Outcome(outcome.loss.detach(), map_leaves(detach, outcome.predictions), outcome.labels)
            return outcome.loss

        # Every optimizer of torch takes a closure, and some need one, so there is one way for all.
        optimizer.step(closure)
        if first is None:
            raise TrainingError(
                f"the optimizer {type(optimizer).__name__}",
                found="a step() that does not call its closure",
                expected="the contract of torch.optim.Optimizer",
                remedy="Let its step() call the closure that it is given, with gradients enabled.",
            )
        return first

    def _apply(self, batch: Any) -> _Outcome:
        if self.loss_fn is None:
            return _Outcome(_one_number(self.network(*arguments(batch))))
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise TrainingError(
                "a batch",
                found=f"a {type(batch).__name__}{size}",
                expected="a pair (inputs, labels)",
                remedy="Let the data set give pairs, with several inputs as a tuple; or give Model no loss_fn and "
                "let the network take the whole batch and return the loss.",
            )
        inputs, labels = batch
        predictions = self.network(*arguments(inputs))
        return _Outcome(_one_number(self.loss_fn(predictions, labels)), predictions, labels)

    def _fitting_optimizer(self) -> torch.optim.Optimizer:
        if self.optimizer is None:
            raise TrainingError(
                "optimizer",
                found="none",
                expected="a torch.optim.Optimizer of the network's parameters",
                remedy="Write Model(network, loss_fn, optimizer).",
            )
        modules = [module for module in (self.network, self.loss_fn) if isinstance(module, torch.nn.Module)]
        own = {id(parameter) for module in modules for parameter in module.parameters()}
        if not any(id(parameter) in own for parameter in _optimized(self.optimizer)):
            raise TrainingError(
                "optimizer",
                found="not one of the network's parameters in it",
                expected="an optimizer of this network",
                remedy="Build it from network.parameters(), after the network.",
            )
        return self.optimizer

    @contextmanager
    def _at_work(self, *, training: bool) -> Iterator[None]:
        """Have the network on its device, and in training or evaluation mode, with or without gradients."""
        self._move()
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.train(training)
        try:
            with torch.set_grad_enabled(training):
                yield
        finally:
            for module, was_training in modes:
                module.training = was_training

    def _move(self) -> None:
        if self._is_spread:  # over several devices by its owner, who knows why
            return
        for module in (self.network, self.loss_fn):
            if isinstance(module, torch.nn.Module) and is_elsewhere(module, self.device):
                module.to(self.device)
        if self.optimizer is not None:
            move_state_to_parameters(self.optimizer)


def _check_epochs(epoch: int, initial_epoch: int) -> None:
    whole_number("epoch", epoch, least=1)
    whole_number("initial_epoch", initial_epoch, least=0)
    if initial_epoch >= epoch:
        raise SettingError(
            "initial_epoch",
            found=str(initial_epoch),
            expected=f"less than epoch, {epoch}",
            remedy="Give as epoch the number of the last epoch, as initial_epoch the epochs behind.",
        )


def _optimized(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _follow(params: CallbackParams, progress: TrainingProgress) -> None:
    params.cur_epoch_num = max(1, progress.epoch)
    params.cur_step_in_epoch, params.cur_step_num = progress.step, progress.global_step


def _checked_dataset(name: str, dataset: Iterable[Any]) -> Iterable[Any]:
    is_iterable = hasattr(dataset, "__iter__") or hasattr(dataset, "__getitem__")
    _check_kind(name, dataset, is_iterable, "an iterable of batches, e.g. a DataLoader")
    return dataset


def _one_number(loss: Any) -> Tensor:
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    raise TrainingError(
        "the loss",
        found=f"a tensor of the shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__,
        expected="a tensor with one number",
        remedy='Reduce it, e.g. with reduction="mean"; without a loss_fn the network must return its loss.',
    )


def _check_kind(field: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise SettingTypeError(
            field,
            found=f"{value!r} of type {type(value).__name__}",
            expected=expected,
            remedy="Look at the order of the arguments.",
        )
