"""The figures of an evaluation: metrics' names, and what they are over torchmetrics. No network is run here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from milepost.errors import MissingExtraError, SettingError, SettingTypeError, TrainingError


class Metric(Protocol):
    """What a metric must be able to do; every `torchmetrics.Metric` is one."""

    def reset(self) -> None:
        """Forget every batch."""

    def update(self, predictions: Any, labels: Any) -> None:
        """Take one batch into account."""

    def compute(self) -> Any:
        """Return the figure over all batches since `reset`: one number."""


@dataclass(frozen=True)
class _Definition:
    """A name's meaning: a class of torchmetrics, its arguments, and whether it is about classes or about numbers."""

    class_name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_about_classes: bool = True


_ACCURACY = _Definition("Accuracy", {"average": "micro"})

METRICS: Mapping[str, _Definition] = {
    "accuracy": _ACCURACY,
    "acc": _ACCURACY,
    "top_1_accuracy": _ACCURACY,
    "top_5_accuracy": _Definition("Accuracy", {"average": "micro", "top_k": 5}),
    "precision": _Definition("Precision", {"average": "macro"}),
    "recall": _Definition("Recall", {"average": "macro"}),
    "F1": _Definition("F1Score", {"average": "macro"}),
    "mae": _Definition("MeanAbsoluteError", is_about_classes=False),
    "mse": _Definition("MeanSquaredError", is_about_classes=False),
}
"""MindSpore's names. Accuracies count labels; precision, recall and F1 are means over the classes (MindSpore gives one
figure per class). With a binary loss they are about class 1."""


@dataclass(frozen=True)
class _Loss:
    """A loss whose labels are classes; binary ones have the prediction above which class 1 is meant."""

    kind: type[torch.nn.Module]
    function: Callable[..., Tensor]
    threshold: float | None = None


_CLASSIFICATION_LOSSES = (
    _Loss(torch.nn.CrossEntropyLoss, functional.cross_entropy),  # milepost.nn's two derive from it
    _Loss(torch.nn.NLLLoss, functional.nll_loss),
    _Loss(torch.nn.BCEWithLogitsLoss, functional.binary_cross_entropy_with_logits, threshold=0.0),
    _Loss(torch.nn.BCELoss, functional.binary_cross_entropy, threshold=0.5),
)


def _classification_loss(loss_fn: object) -> _Loss | None:
    for known in _CLASSIFICATION_LOSSES:
        if isinstance(loss_fn, known.kind) or loss_fn is known.function:
            return known
    return None


def choose_metrics(
    metrics: Collection[str] | Mapping[str, Metric] | None, loss_fn: Callable[..., Tensor] | None
) -> dict[str, Metric]:
    """Turn what the user gave into metrics by name; without any, a classification loss brings ``accuracy``.

    Args:
        metrics: Names of `METRICS`, or metrics under names of the user's choice. The name ``loss`` is allowed and
            changes nothing, since an evaluation always has its loss.
        loss_fn: The loss, which tells what predictions and labels mean.

    Raises:
        SettingTypeError: Neither a collection of names nor a mapping of metrics.
        SettingError: An unknown name; or metrics without a loss function, where predictions stay unseen.
    """
    if metrics is None:
        metrics = ["accuracy"] if _classification_loss(loss_fn) else []
    if isinstance(metrics, str) or not isinstance(metrics, Collection):
        raise SettingTypeError(
            "metrics",
            found=f"{metrics!r} of type {type(metrics).__name__}",
            expected="a set of names, or a dict of name and metric",
            remedy='Write metrics={"accuracy"}.',
        )
    if isinstance(metrics, Mapping):
        chosen = {name: _own_metric(name, metric) for name, metric in metrics.items()}
    else:
        # A set has no order; the table's order makes results the same in every process.
        names = sorted({_known_name(name) for name in metrics} - {"loss"}, key=list(METRICS).index)
        chosen = {name: _NamedMetric(name, loss_fn) for name in names}
    if chosen and loss_fn is None:
        raise SettingError(
            "metrics",
            found=f"{', '.join(chosen)} without a loss_fn",
            expected="a loss_fn",
            remedy="A network that returns its loss hides its predictions: give Model a loss_fn.",
        )
    return chosen


def _known_name(name: object) -> str:
    if isinstance(name, str) and (name in METRICS or name == "loss"):
        return name
    raise SettingError(
        "metrics",
        found=repr(name),
        expected=f"one of {', '.join(['loss', *METRICS])}",
        remedy='For a metric of your own write metrics={"name": metric}.',
    )


def _own_metric(name: object, metric: object) -> Metric:
    if not isinstance(name, str) or name == "loss":
        raise SettingError(
            "metrics", found=f"the name {name!r}", expected="another text than 'loss'", remedy="Rename the metric."
        )
    verbs = ("reset", "update", "compute")
    if isinstance(metric, type) or not all(callable(getattr(metric, verb, None)) for verb in verbs):
        raise SettingTypeError(
            f"metrics[{name!r}]",
            found=f"{metric!r} of type {type(metric).__name__}",
            expected=f"an object with {', '.join(verbs)}",
            remedy="Give an instance of a torchmetrics.Metric, or of a class with these methods.",
        )
    return metric  # type: ignore[return-value]  # the three verbs are what the Protocol asks for


class _NamedMetric:
    """A metric of the table; what it counts is known at the first batch, whose logits tell the number of classes."""

    def __init__(self, name: str, loss_fn: object) -> None:
        self._name = name
        self._definition = METRICS[name]
        self._loss_fn = loss_fn
        self._metric: Metric | None = None

    def reset(self) -> None:
        try:
            self._library = importlib.import_module("torchmetrics")
        except ImportError:
            raise MissingExtraError.of(f"the metric {self._name!r}", extra="metrics", missing="torchmetrics") from None
        self._metric = None

    def update(self, predictions: Any, labels: Any) -> None:
        arguments: dict[str, Any] = dict(self._definition.arguments)
        if self._definition.is_about_classes:
            predictions, labels, about_classes = as_classes(predictions, labels, self._loss_fn)
            arguments |= about_classes
            if "top_k" in arguments:
                arguments["top_k"] = min(arguments["top_k"], arguments.get("num_classes", 1))
        else:
            predictions, labels = _as_numbers(predictions, labels)
        if self._metric is None:
            metric: Metric = getattr(self._library, self._definition.class_name)(**arguments)
            self._metric = move_metric(metric, predictions.device)
        self._metric.update(predictions, labels)

    def compute(self) -> Any:
        return None if self._metric is None else self._metric.compute()


def move_metric(metric: Metric, device: torch.device) -> Metric:
    """Bring a metric that can be moved, as those of torchmetrics can, to where its batches are."""
    if hasattr(metric, "to"):
        metric.to(device)
    return metric


def as_classes(predictions: Any, labels: Any, loss_fn: object) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return predictions and class numbers as torchmetrics takes them, with the arguments that tell their kind.

    Args:
        predictions: Logits of the shape (N, C, ...); for a binary loss of any shape.
        labels: Class numbers (N, ...), or one-hot or probability labels of the shape of the logits; for a binary
            loss 0 or 1, of the shape of the predictions.
        loss_fn: The loss; it tells a binary task, and which class number is to be left out.

    Raises:
        TrainingError: The two do not fit together.
    """
    if isinstance(predictions, Tensor) and isinstance(labels, Tensor):
        loss = _classification_loss(loss_fn)
        if loss and loss.threshold is not None and predictions.shape == labels.shape:
            is_one = predictions > loss.threshold
            return is_one.flatten().long(), (labels > 0.5).flatten().long(), {"task": "binary"}
        if predictions.ndim > 1 and predictions.shape[1] > 1:
            if labels.shape == predictions.shape:
                labels = labels.argmax(dim=1)
            if labels.shape == predictions[:, 0].shape and not labels.is_floating_point():
                kind = {
                    "task": "multiclass",
                    "num_classes": predictions.shape[1],
                    "ignore_index": getattr(loss_fn, "ignore_index", None),
                }
                return predictions, labels.long(), kind
    raise TrainingError(
        "metrics about classes",
        found=f"{_describe(predictions)} as predictions, {_describe(labels)} as labels",
        expected="logits (N, C, ...) with class numbers (N, ...) or one-hot labels (N, C, ...)",
        remedy='For other tasks name other metrics, e.g. metrics={"mae"}, or give a metric of your own.',
    )


def hits(predictions: Any, labels: Any, loss_fn: object) -> Tensor | None:
    """Return for each label whether it is predicted rightly, or None where that cannot be told."""
    if _classification_loss(loss_fn) is None:
        return None
    try:
        predictions, labels, kind = as_classes(predictions, labels, loss_fn)
    except TrainingError:  # what is shown on the way must not end a training that works
        return None
    classes: Tensor = predictions if kind["task"] == "binary" else predictions.argmax(dim=1)
    is_hit = torch.eq(classes, labels)
    ignored = kind.get("ignore_index")
    return is_hit if ignored is None else is_hit[labels != ignored]


def _as_numbers(predictions: Any, labels: Any) -> tuple[Tensor, Tensor]:
    if isinstance(predictions, Tensor) and isinstance(labels, Tensor) and predictions.shape == labels.shape:
        return predictions.flatten(), labels.flatten()
    raise TrainingError(
        "metrics about numbers",
        found=f"{_describe(predictions)} as predictions, {_describe(labels)} as labels",
        expected="two tensors of one shape",
        remedy="Reshape the labels in the data set, or the predictions in the network.",
    )


def _describe(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


class Scores:
    """Adds up an evaluation, batch by batch.

    Args:
        metrics: The metrics by name; they are reset.
        device: Where the batches are.
    """

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device) -> None:
        self._metrics = metrics
        self._losses: list[Tensor] = []
        self._weights: list[int] = []
        for metric in metrics.values():
            move_metric(metric, device).reset()

    def add(self, loss: Tensor, predictions: Any, labels: Any, *, samples: int) -> None:
        """Take a batch of `samples` into account."""
        self._losses.append(loss.detach().reshape(()))
        self._weights.append(samples)
        for metric in self._metrics.values():
            metric.update(predictions, labels)

    def result(self) -> dict[str, float]:
        """Return the mean loss over all samples, and each metric's figure.

        Raises:
            TrainingError: A metric's figure is not one number.
        """
        # Losses stay on the device until here, so that no step waits for one.
        losses = torch.stack(self._losses).cpu().double()
        weights = torch.tensor(self._weights, dtype=torch.float64)
        loss = (losses * weights).sum() / weights.sum()
        return {"loss": loss.item()} | {
            name: _one_number(name, metric.compute()) for name, metric in self._metrics.items()
        }


def _one_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise TrainingError(
            f"the metric {name!r}",
            found=_describe(value),
            expected="one number",
            remedy="Reduce it in the metric's compute, or give one metric per number.",
        ) from None
