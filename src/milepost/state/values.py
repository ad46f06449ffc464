"""State that is not tensors <-> JSON. Tensors inside it become entries, and the JSON refers to them by name; no pickle.

JSON has no tuples, no non-finite numbers and only text as keys; these, and the references, are objects with one key
that begins with ``$``. Everything else that JSON lacks is refused with its path, at the save: never at the resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from milepost.errors import UnsupportedStateError

ENTRY, TUPLE, FLOAT, MAP = "$entry", "$tuple", "$float", "$map"


def pack(value: object, path: str, keep: Callable[[str, torch.Tensor], None]) -> Any:
    """Turn `value` into JSON.

    Args:
        value: None, bools, numbers, texts, tensors, NumPy numbers, and lists, tuples and dicts of them.
        path: Where the value stands, for tensors' names and for messages.
        keep: Called with the name and the tensor for each tensor inside.

    Raises:
        UnsupportedStateError: Something else was met; the message has its path.
    """
    if isinstance(value, torch.Tensor):
        keep(path, value)
        return {ENTRY: path}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.generic):
        return pack(value.item(), path, keep)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {FLOAT: repr(float(value))}
    if isinstance(value, list):
        return [pack(item, f"{path}.{place}", keep) for place, item in enumerate(value)]
    if isinstance(value, tuple):
        return {TUPLE: [pack(item, f"{path}.{place}", keep) for place, item in enumerate(value)]}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: pack(item, f"{path}.{key}", keep) for key, item in value.items()}
        return {MAP: [[pack(key, path, keep), pack(item, f"{path}.{key}", keep)] for key, item in value.items()]}
    raise UnsupportedStateError(
        path,
        found=f"a {type(value).__module__}.{type(value).__qualname__}",
        expected="tensors, numbers, texts, None, and lists, tuples and dicts of them",
        remedy="Leave it out of the state, or turn it into these.",
    )


def unpack(packed: Any, take: Callable[[str], torch.Tensor]) -> Any:
    """Undo `pack`.

    Args:
        packed: What `pack` returned.
        take: Gives the tensor that was kept under a name.

    Raises:
        ValueError: It is not what `pack` returns; so do `TypeError`, `LookupError` and what `take` raises.
    """
    if isinstance(packed, list):
        return [unpack(item, take) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if len(packed) == 1:
        (key, value), *_ = packed.items()
        if key == ENTRY:
            return take(value)
        if key == TUPLE:
            return tuple(unpack(item, take) for item in value)
        if key == FLOAT:
            return float(value)
        if key == MAP:
            return {unpack(name, take): unpack(item, take) for name, item in value}
        if key.startswith("$"):
            raise ValueError(f"a value of the kind {key!r}, which this version does not know")
    return {key: unpack(item, take) for key, item in packed.items()}
