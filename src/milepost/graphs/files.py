"""What the formats of `export` have in common: what is asked of them, and what they answer. No format is known here."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from milepost._version import __version__


@dataclass(frozen=True)
class Order:
    """What `export` was asked for: its arguments, with the inputs as tensors where the module is."""

    net: nn.Module
    inputs: tuple[Tensor, ...]
    file_name: str
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    dynamic_shapes: Any
    opset: int | None
    operators: str | None
    verify: bool
    origin: dict[str, str]

    @property
    def facts(self) -> dict[str, str]:
        """What a file says of itself: the module's class, the checkpoint whose content it holds if known, versions."""
        model = type(self.net).__name__
        return {**self.origin, "model": model, "torch": torch.__version__, "milepost": __version__}

    def tell_of_fixed_batch(self, free: list[dict[int, str]]) -> None:
        """Warn if the batch was to be free, and is not: `free` are the free dimensions of each input."""
        if self.dynamic_shapes is None and self.inputs[0].ndim and not any(free):
            message = (
                f"{self.file_name}: {type(self.net).__name__} works for one size of batch only, so it is fixed at "
                f"{len(self.inputs[0])}; dynamic_shapes={{}} says that this is meant"
            )
            warnings.warn(message, UserWarning, stacklevel=4)


@dataclass(frozen=True)
class Part:
    """One of the files of a model, in the order in which they are committed: the last is the model itself.

    Args:
        name: The file's name.
        nbytes: Its length.
        chunks: Its content.
    """

    name: str
    nbytes: int
    chunks: Iterable[bytes | memoryview]
