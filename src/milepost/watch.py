"""`StepWatch`: what optimizers do between two steps of a training. What follows from it is decided elsewhere."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import Optimizer


class StepWatch:
    """Sees the optimizers' steps until `close`.

    Args:
        optimizers: Those to watch. A step that is part of a CUDA graph is not seen.

    Attributes:
        has_begun: Whether one has begun a step since this was set to False.
        has_gathered: Whether one has taken a step with gradients that were there, in part at least, when `keep_in_mind`
            was called: they were gathered over more than one step of the training.

    Example:
        >>> weight = torch.ones(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.1)
        >>> watch = StepWatch([optimizer])
        >>> weight.sum().backward()
        >>> watch.keep_in_mind()
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> watch.has_begun, watch.has_gathered
        (True, True)
        >>> watch.close()
    """

    def __init__(self, optimizers: Iterable[Optimizer]) -> None:
        self.has_begun = self.has_gathered = False
        self._optimizers = list(optimizers)
        self._kept: dict[int, weakref.ref[torch.Tensor]] = {}
        self._hooks: list[Any] = [optimizer.register_step_pre_hook(self._begin) for optimizer in self._optimizers]

    def keep_in_mind(self) -> None:
        """Look, at each optimizer's next step, whether it uses gradients that are there now."""
        for optimizer in self._optimizers:
            grad = _first_grad(optimizer)
            if grad is not None:
                self._kept[id(optimizer)] = weakref.ref(grad)

    def close(self) -> None:
        """See no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self, optimizer: Optimizer, *_: object) -> None:
        self.has_begun = True
        kept = self._kept.pop(id(optimizer), None)
        # One that was cleared meanwhile is another tensor.
        if kept is not None and kept() is not None and kept() is _first_grad(optimizer):
            self.has_gathered = True


def _first_grad(optimizer: Optimizer) -> torch.Tensor | None:
    grads = (parameter.grad for group in optimizer.param_groups for parameter in group["params"])
    return next((grad for grad in grads if grad is not None), None)
