"""Where a network works, and how batches and optimizer state get there. What is computed is not known here."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from milepost.errors import SettingError


def choose_device(network: torch.nn.Module, wish: torch.device | str | None) -> torch.device:
    """The wished device, else the accelerator that the network is on, else one that the machine has, else the CPU."""
    if wish is None:
        wish = next(iter(accelerators_of(network)), None)
    if wish is None and torch.accelerator.is_available():
        wish = torch.accelerator.current_accelerator()
    if wish is None:
        wish = "cpu"
    try:
        # An empty tensor tells whether the device exists, and which one "cuda" without a number is.
        return torch.empty(0, device=wish).device
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise SettingError(
            "device",
            found=f"{wish!r} ({error})",
            expected="a device of this machine",
            remedy='Leave device out to have one chosen, or write e.g. "cpu" or "cuda:0".',
        ) from error


def accelerators_of(network: torch.nn.Module) -> list[torch.device]:
    """The devices of the network's parameters, without the CPU."""
    devices = dict.fromkeys(parameter.device for parameter in network.parameters())
    return [device for device in devices if device.type != "cpu"]


def is_elsewhere(module: torch.nn.Module, device: torch.device) -> bool:
    """Whether a parameter or buffer is not on `device`."""
    return any(tensor.device != device for tensor in chain(module.parameters(), module.buffers()))


def move_state_to_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Bring state that was loaded, or made, before its parameters were moved to where they are now."""
    for group in optimizer.param_groups:
        # torch wants the count of steps on the CPU, but for optimizers that run as one kernel or graph.
        stays = set() if group.get("fused") or group.get("capturable") else {"step"}
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for key in state.keys() - stays:
                state[key] = to_device(state[key], parameter.device)


def to_device(value: Any, device: torch.device) -> Any:
    """Bring tensors and arrays, in whatever nesting, to `device`, as tensors."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            # A copy, for torch shares neither read-only arrays nor reversed ones.
            leaf = torch.from_numpy(np.array(leaf))
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=device.type == "cuda")
        return leaf.to(device) if hasattr(leaf, "to") else leaf

    return map_leaves(move, value)


def detach(leaf: Any) -> Any:
    """A tensor without its graph; anything else as it is."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """Apply `change` to whatever lies in nested tuples, lists and dicts; what knows how to move is one thing."""
    if hasattr(value, "to"):  # also packed sequences, which are tuples of which a part must stay on the CPU
        return change(value)
    if isinstance(value, tuple | list):
        items = [map_leaves(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: map_leaves(change, item) for key, item in value.items()}
    return change(value)
