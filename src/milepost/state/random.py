"""The random state of a process: Python's, NumPy's, torch's on CPU and CUDA, and that of a loader's own generators."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture(loader: object = None) -> dict[str, Any]:
    """Take every random state that decides what comes next.

    Args:
        loader: A data loader, whose own generators are taken too.

    Returns:
        A tree of numbers, tensors and arrays for `restore`; it shares no memory with the generators.
    """
    version, internal, gauss = random.getstate()
    return {
        "python": [version, torch.tensor(internal, dtype=torch.int64, device="cpu"), gauss],
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        # Where nothing has used CUDA yet nothing was drawn, and to ask would take memory of every GPU.
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
        "loader": [generator.get_state() for generator in _generators(loader)],
    }


def restore(state: dict[str, Any], loader: object = None) -> None:
    """Set what `capture` took; a device or generator that was not there then keeps its state."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(value, device)
    for generator, value in zip(_generators(loader), state["loader"], strict=False):
        generator.set_state(value)


def _generators(loader: object) -> list[torch.Generator]:
    """The generators that a `DataLoader` draws its order from, each once."""
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return list({id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values())
