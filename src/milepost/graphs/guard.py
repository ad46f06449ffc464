"""A module while it is traced: in eval mode, without hooks, and afterwards as it was. No graph is made here."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod

_CALL_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Put `net` into eval mode, and afterwards give back every attribute, buffer and random state, also on failure.

    The module itself is used, not a copy: a copy would hold the weights twice, and modules that refer to a trainer, a
    lock or a process group cannot be copied. The flags are set directly, because `Module.eval` may be overridden
    with something that changes weights (adapters that merge on eval).
    """
    modules = list(net.modules())
    attributes = [(module, dict(vars(module))) for module in modules]
    # One level down, because tracing puts its own tensors into lists (LSTM's `_flat_weights`), and forward may append.
    contents = [_content(value) for module in modules for value in vars(module).values()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in net.buffers() if not buffer.is_meta]
    with _random_state_kept():
        try:
            for module in modules:
                vars(module).update(training=False, _compiled_call_impl=None)
            yield
        finally:
            for restore in contents:
                restore()
            for module, saved in attributes:
                vars(module).clear()
                vars(module).update(saved)
            for buffer, before in buffers:
                # Writing the same values would still count as a change in place, and break a pending backward pass.
                if not torch.equal(buffer, before):
                    with torch.no_grad():
                        buffer.copy_(before)


def hide_hooks(net: nn.Module) -> list[str]:
    """Take off the user's hooks, inside `untouched` only; return the names of the modules that had some.

    A hook mostly watches (features, histograms, timers), and would be handed tensors without values. The hooks of torch
    itself that compute a weight before each call (weight norm, spectral norm, pruning) are a part of the module.
    """
    hidden = []
    for name, module in net.named_modules():
        for kind in _CALL_HOOKS:
            hooks: OrderedDict[int, Any] = vars(module).get(kind) or OrderedDict()
            kept = OrderedDict((key, hook) for key, hook in hooks.items() if _computes_a_weight(hook))
            if len(kept) < len(hooks):
                vars(module)[kind] = kept
                hidden.append(name or type(module).__name__)
    return list(dict.fromkeys(hidden))


def _computes_a_weight(hook: object) -> bool:
    return isinstance(hook, BasePruningMethod) or str(getattr(hook, "__module__", "")).startswith("torch.nn.")


def _content(value: object) -> Callable[[], None]:
    """What puts back the present content of a plain container."""
    if type(value) is list:
        items = list(value)
        return lambda: value.__setitem__(slice(None), items)
    if type(value) in (dict, OrderedDict, set):
        assert isinstance(value, dict | set)
        held: Any = value.copy()

        def restore() -> None:
            value.clear()
            value.update(held)

        return restore
    return lambda: None


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python, legacy = random.getstate(), np.random.get_state()
    is_on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if is_on_gpu else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
