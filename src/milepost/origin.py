"""Which checkpoint a module holds: the one last loaded or saved, held against its bytes. Nothing is written here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from milepost.engine.reader import Reader
from milepost.errors import MilepostError
from milepost.format.checksum import Checksum
from milepost.format.dialect import native
from milepost.format.spec import Index
from milepost.state.tensors import content_of
from milepost.storage.base import Storage

_LAST: WeakKeyDictionary[nn.Module, tuple[str, Callable[[], Index]]] = WeakKeyDictionary()
"""Module -> the checkpoint that it was last loaded from or saved to: its name, and what gives its index."""


def loaded(net: nn.Module, name: str, index: Index) -> None:
    """Remember that `net` was loaded from a checkpoint with this index."""
    _LAST[net] = (name, lambda: index)


def saved(net: nn.Module, storage: Storage, name: str) -> None:
    """Remember that `net` was saved to this file; the file is looked at when it is asked for."""

    def index() -> Index:
        reader = Reader(storage, name)
        reader.close()
        return native(reader.index, reader.where)[0]

    _LAST[net] = (name, index)


def origin(net: nn.Module) -> dict[str, str]:
    """What is known of the checkpoint whose content `net` holds, to the bit: ``checkpoint``, ``epoch``, ``step``.

    Empty where the module was trained or changed since, in whatever way, where the file is gone, or has no checksums.
    """
    if net not in _LAST:
        return {}
    name, read = _LAST[net]
    with contextlib.suppress(MilepostError):
        index = read()
        if all(_is_in(index, key, value) for key, value in net.state_dict().items() if isinstance(value, Tensor)):
            return facts(name, index.metadata)
    return {}


def facts(name: str, metadata: Mapping[str, Any]) -> dict[str, str]:
    """What is told of a checkpoint of this name and metadata."""
    return {"checkpoint": name} | {key: str(metadata[key]) for key in ("epoch", "step") if key in metadata}


def _is_in(index: Index, name: str, tensor: Tensor) -> bool:
    entry = index.entries.get(index.aliases.get(name, name))
    if entry is None or entry.checksum is None or entry.spec.shape != tuple(tensor.shape):
        return False
    return entry.checksum == Checksum.of(content_of(tensor))
