"""The tutorial's optimizer and losses, thin names over torch's own. Nothing here trains, and no layer is defined."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from milepost.errors import SettingError, SettingTypeError, TrainingError

__all__ = ["CrossEntropyLoss", "Momentum", "SoftmaxCrossEntropyWithLogits"]

REDUCTIONS = ("none", "mean", "sum")
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Momentum(torch.optim.SGD):
    """Updates parameters with momentum: ``v = momentum * v + gradient``, ``p -= learning_rate * v``.

    It is `torch.optim.SGD` under MindSpore's name and order of arguments, so learning rate schedulers,
    ``state_dict()`` and every other tool for torch's optimizers work with it. Two differences to MindSpore:
    weight decay reaches every parameter given (MindSpore leaves out names with "beta" and "gamma"; give parameter
    groups to leave some out), and there is no loss scale (`torch.amp.GradScaler` does that in torch).

    Args:
        params: Parameters, named parameters or parameter groups, as for any torch optimizer.
        learning_rate: The step size, 0 or more. For one that changes, use `torch.optim.lr_scheduler`.
        momentum: How much of the last update remains, 0 or more.
        weight_decay: This multiple of a parameter is added to its gradient, 0 or more.
        use_nesterov: Look ahead: the update is ``gradient + momentum * v``.

    Raises:
        SettingTypeError: A number has another type; the field is named.
        SettingError: A number is negative.

    Example:
        >>> network = torch.nn.Linear(4, 2)
        >>> optimizer = Momentum(network.parameters(), learning_rate=0.1, momentum=0.9)
        >>> optimizer.param_groups[0]["lr"]
        0.1

    Source: mindspore.nn.Momentum, MindSpore 2.10.
    """

    def __init__(
        self,
        params: Iterable[Any],
        learning_rate: float,
        momentum: float,
        weight_decay: float = 0.0,
        *,
        use_nesterov: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=_not_negative("learning_rate", learning_rate),
            momentum=_not_negative("momentum", momentum),
            weight_decay=_not_negative("weight_decay", weight_decay),
            nesterov=use_nesterov,
        )


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """The cross entropy between logits and labels: torch's loss, which also takes labels of any integer type.

    Arguments are those of `torch.nn.CrossEntropyLoss`. Logits have the shape (N, C, ...), labels are class numbers
    of the shape (N, ...) or probabilities of the shape of the logits.

    Example:
        >>> logits, labels = torch.zeros(3, 10), torch.tensor([0, 4, 9], dtype=torch.int32)
        >>> round(CrossEntropyLoss()(logits, labels).item(), 4)
        2.3026
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits `input` against labels `target`."""
        # torch's kernel knows int64 and uint8 alone, while MindSpore's data sets deliver int32.
        return super().forward(input, target.long() if target.dtype in _INTEGERS else target)


class SoftmaxCrossEntropyWithLogits(CrossEntropyLoss):
    """The cross entropy between the softmax of logits and labels, MindSpore's definition with defaults that train.

    MindSpore's defaults are ``sparse=False, reduction="none"``: one-hot labels only, and a loss per sample, whose
    gradient is that of their sum. Here the labels tell by their shape what they are, and the losses are averaged.
    Each value that is given means what it means in MindSpore.

    Args:
        sparse: True for class numbers of the shape (N, ...), False for one-hot or probability labels of the shape
            of the logits, (N, C, ...); None takes either.
        reduction: ``"mean"``, ``"sum"``, or ``"none"`` for one loss per sample (which `Model` does not train).

    Raises:
        SettingError: `reduction` is none of the three.
        TrainingError: Labels (at the call) that are not what `sparse` promises.

    Example:
        >>> loss = SoftmaxCrossEntropyWithLogits()
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
        >>> one_hot = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> bool(loss(logits, torch.tensor([0, 1])) == loss(logits, one_hot))
        True

    Source: mindspore.nn.SoftmaxCrossEntropyWithLogits, MindSpore 2.10.
    """

    def __init__(self, sparse: bool | None = None, reduction: Literal["none", "mean", "sum"] = "mean") -> None:
        if sparse not in (None, True, False):
            raise SettingTypeError(
                "sparse", found=repr(sparse), expected="True, False or None", remedy="Choose one of the three."
            )
        if reduction not in REDUCTIONS:
            raise SettingError(
                "reduction",
                found=repr(reduction),
                expected=f"one of {', '.join(REDUCTIONS)}",
                remedy="Choose one of the three.",
            )
        super().__init__(reduction=reduction)
        self.sparse = sparse

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits `input` against labels `target`."""
        sparse = self.sparse if self.sparse is not None else target.shape != input.shape
        if sparse and target.dtype not in _INTEGERS:
            raise self._refusal(target, "class numbers, of an integer type")
        if not sparse and target.shape != input.shape:
            raise self._refusal(target, f"one number per logit, the shape {tuple(input.shape)}")
        return super().forward(input, target if sparse else target.to(input.dtype))

    def _refusal(self, target: Tensor, expected: str) -> TrainingError:
        return TrainingError(
            f"the labels of SoftmaxCrossEntropyWithLogits(sparse={self.sparse})",
            found=f"{target.dtype} of the shape {tuple(target.shape)}",
            expected=expected,
            remedy="Give sparse=True for class numbers, sparse=False for one-hot or probability labels.",
        )


def _not_negative(field: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise SettingTypeError(
            field,
            found=f"{value!r} of type {type(value).__name__}",
            expected="a number",
            remedy="For a value that changes during training, use torch.optim.lr_scheduler.",
        )
    number = float(value)
    if not number >= 0:
        raise SettingError(field, found=repr(value), expected="0 or more", remedy="Give a number of that kind.")
    return number
