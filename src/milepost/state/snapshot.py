"""A training's state, gathered under names, ready to be written. Which objects it comes from is not known here."""

from __future__ import annotations

from typing import Any

import torch

from milepost.errors import UnsupportedStateError
from milepost.format.spec import Array, ArraySpec
from milepost.format.text import encode_text
from milepost.state.tensors import array_of
from milepost.state.values import pack


class Snapshot:
    """Named tensors, the aliases among them, and everything else as JSON.

    The tensors are live: their bytes are taken when `arrays` are written, so nothing may change them until then, but
    for a `milepost.state.guard.Guard`.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self.tensors: dict[str, torch.Tensor] = {}
        self.aliases: dict[str, str] = {}
        self.state: dict[str, Any] = {}

    def keep(self, name: str, kind: str, tensor: torch.Tensor) -> None:
        """Add a tensor under a name that is still free."""
        if name in self.arrays or name in self.aliases:
            raise _taken(name)
        self.arrays[name] = array_of(name, kind, tensor)
        self.tensors[name] = tensor

    def keep_text(self, name: str, kind: str, text: str) -> None:
        """Add a text under a name that is still free."""
        if name in self.arrays or name in self.aliases:
            raise _taken(name)
        content = memoryview(encode_text(text))
        self.arrays[name] = Array(ArraySpec(name, "str", ()), kind, lambda: content)

    def alias(self, name: str, target: str) -> None:
        """Let `name` stand for the tensor that is kept as `target`."""
        if name in self.arrays or name in self.aliases:
            raise _taken(name)
        self.aliases[name] = target

    def pack(self, value: object, path: str, kind: str) -> Any:
        """Turn `value` into JSON whose tensors are kept under names that begin with `path`."""
        return pack(value, path, lambda name, tensor: self.keep(name, kind, tensor))


def _taken(name: str) -> UnsupportedStateError:
    return UnsupportedStateError(
        name,
        found="two tensors of this name",
        expected="one: those of the network, the optimizers, the random state and other objects differ",
        remedy="Rename the module, the parameter or the object.",
    )
