"""`StepWatch`: what optimizers do between two steps of a training. What follows from it is decided elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class StepWatch:
    """Sees the optimizers' steps until `close`.

    Args:
        optimizers: Those to watch. A step that is part of a CUDA graph is not seen.

    Attributes:
        has_begun: Whether one has begun a step since this was set to False.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> watch = StepWatch([optimizer])
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> watch.has_begun, watch.is_gathering()
        (True, False)
        >>> weight.sum().backward()
        >>> watch.is_gathering()
        True
        >>> watch.close()
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.has_begun = False
        self._optimizers = list(optimizers)
        self._left: dict[int, Callable[[torch.Tensor], bool]] = {}
        self._hooks: list[Any] = []
        for optimizer in self._optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(self._begin))
            self._hooks.append(optimizer.register_step_post_hook(self._end))

    def is_gathering(self) -> bool:
        """Whether gradients have come since the last step of their optimizer, which the next one is to use too."""
        return any(
            grad is not None and not self._left[id(optimizer)](grad) and _is_of_use(grad)
            for optimizer in self._optimizers
            if id(optimizer) in self._left
            for grad in [_first_grad(optimizer)]
        )

    def close(self) -> None:
        """See no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, *_: object) -> None:
        self.has_begun = True

    def _end(self, optimizer: Optimizer, *_: object) -> None:
        grad = _first_grad(optimizer)
        self._left[id(optimizer)] = _none if grad is None else _same(grad)


def _first_grad(optimizer: Optimizer) -> torch.Tensor | None:
    grads = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
    return next((grad for grad in grads if grad is not None), None)


def _same(grad: torch.Tensor) -> Callable[[torch.Tensor], bool]:
    """Whether a gradient is this one, and was not added to."""
    known, version = weakref.ref(grad), grad._version
    return lambda other: other is known() and other._version == version


def _none(_: torch.Tensor) -> bool:
    return False


def _is_of_use(grad: torch.Tensor) -> bool:
    """Not what was set to zero, nor what a `GradScaler` passes over."""
    values = grad.detach()
    values = values.coalesce().values() if values.is_sparse else values
    return bool(torch.isfinite(values).all()) and bool(values.any())
