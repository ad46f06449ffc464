"""State that is not tensors <-> JSON. Tensors inside it become entries, and the JSON refers to them by name; no pickle.

What JSON lacks is an object with one key that begins with ``$``; docs/format.md has the table. A value comes back with
the type that it had, or is refused with its path, at the save: never at the resume, and never turned into something
similar. So a subclass of what is known here is not known here.
"""

from __future__ import annotations

import base64
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from milepost.errors import UnsupportedStateError
from milepost.format.strict_json import DEPTH_LIMIT

ENTRY, ARRAY, FLOAT, INT, BYTES, MAP, ORDERED = "$entry", "$array", "$float", "$int", "$bytes", "$map", "$ordered"
SCALAR, DTYPE, DEVICE, DEFAULTS = "$scalar", "$dtype", "$device", "$defaultdict"
_LISTS: dict[type, str] = {tuple: "$tuple", torch.Size: "$size", set: "$set", frozenset: "$frozenset"}
_MAPS: dict[type, str] = {dict: MAP, Counter: "$counter"}
_NUMBERS: list[type] = [np.bool_, np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64]
_NUMBERS += [np.uint8, np.uint16, np.uint32, np.uint64]
_SCALARS: dict[type, str] = {kind: np.dtype(kind).name for kind in _NUMBERS}
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (dict, list, set, int, float, bool, str)}
_LIST_KINDS = {tag: kind for kind, tag in _LISTS.items()}
_MAP_KINDS = {tag: kind for kind, tag in _MAPS.items()}
_SCALAR_KINDS = {name: kind for kind, name in _SCALARS.items()}


def pack(value: object, path: str, keep: Callable[[str, torch.Tensor], None]) -> Any:
    """Turn `value` into JSON.

    Args:
        value: None, bools, numbers, texts, bytes, tensors, NumPy arrays and numbers, `torch.Size`, dtypes and devices,
            and lists, tuples, sets, dicts, ordered dicts, counters and defaultdicts (of a builtin kind) of them. A
            tensor's subclass, such as a parameter, is stored as the tensor that it is.
        path: Where the value stands, for tensors' names and for messages.
        keep: Called with the name and the tensor for each tensor inside.

    Raises:
        UnsupportedStateError: Something else was met; the message has its path.

    Example:
        >>> pack({"milestones": Counter([30, 60]), "betas": (0.9, 0.999)}, "scheduler", {}.__setitem__)
        {'milestones': {'$counter': [[30, 1], [60, 1]]}, 'betas': {'$tuple': [0.9, 0.999]}}
    """
    return _pack(value, path, keep, DEPTH_LIMIT)


def _pack(value: Any, path: str, keep: Callable[[str, torch.Tensor], None], depth: int) -> Any:
    if depth == 0:
        raise _unsupported(path, f"nesting deeper than {DEPTH_LIMIT} levels")
    if isinstance(value, torch.Tensor):
        keep(path, value)
        return {ENTRY: path}

    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else {INT: hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {FLOAT: repr(value)}
    if kind is dict and depth > 1 and _is_plain(value):  # what the state of an optimizer is made of, so quick
        plain = {}
        for key, item in value.items():
            below = f"{path}.{key}" if path else key
            if type(item) is torch.Tensor:
                keep(below, item)
                plain[key] = {ENTRY: below}
            else:
                plain[key] = _pack(item, below, keep, depth - 1)
        return plain

    def inner(item: object, name: object) -> Any:
        return _pack(item, path if name is None else f"{path}.{name}" if path else str(name), keep, depth - 1)

    def items(values: Iterable[object]) -> list[Any]:
        return [inner(item, place) for place, item in enumerate(values)]

    def pairs(values: dict[Any, Any]) -> list[list[Any]]:
        return [[inner(key, None), inner(item, key)] for key, item in values.items()]

    if kind is list:
        return items(value)
    if kind in _LISTS:
        # A set's order changes from process to process; one state has one form.
        return {_LISTS[kind]: items(value if isinstance(value, tuple) else sorted(value, key=repr))}
    if kind in _MAPS:
        return {_MAPS[kind]: pairs(value)}
    if kind is OrderedDict:  # a module's state_dict keeps the versions of its parts in an attribute
        return {ORDERED: [pairs(value), inner(vars(value), None)]}
    if kind is defaultdict and value.default_factory in _FACTORIES.values():
        return {DEFAULTS: [value.default_factory.__name__, pairs(value)]}
    if kind in _SCALARS:
        return {SCALAR: [_SCALARS[kind], inner(value.item(), None)]}
    if kind is np.ndarray:
        keep(path, _tensor_of(value, path))
        return {ARRAY: path}
    if kind is bytes:
        return {BYTES: base64.b64encode(value).decode()}
    if kind is torch.dtype:
        return {DTYPE: str(value).removeprefix("torch.")}
    if kind is torch.device:
        return {DEVICE: str(value)}
    raise _unsupported(path, f"a {kind.__module__}.{kind.__qualname__}")


def _is_plain(value: dict[Any, Any]) -> bool:
    for key in value:  # noqa: SIM110 (quicker than all(...))
        if type(key) is not str or key.startswith("$"):
            return False
    return True


def is_tagged(packed: dict[str, Any]) -> bool:
    """Whether what `pack` returned stands for something that JSON does not have."""
    return len(packed) == 1 and next(iter(packed)).startswith("$")


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
    if is_tagged(packed):
        (tag, value), *_ = packed.items()
        return _unpack(tag, value, take)
    return {key: unpack(item, take) for key, item in packed.items()}


def _unpack(tag: str, value: Any, take: Callable[[str], torch.Tensor]) -> Any:
    def mapping(pairs: list[list[Any]]) -> dict[Any, Any]:
        return {unpack(key, take): unpack(item, take) for key, item in pairs}

    if tag == ENTRY:
        return take(value)
    if tag == ARRAY:
        return take(value).numpy()
    if tag in _LIST_KINDS:
        return _LIST_KINDS[tag]([unpack(item, take) for item in value])
    if tag in _MAP_KINDS:
        return _MAP_KINDS[tag](mapping(value))
    if tag == ORDERED:
        ordered, attributes = OrderedDict(mapping(value[0])), unpack(value[1], take)
        vars(ordered).update(attributes)
        return ordered
    if tag == DEFAULTS:
        return defaultdict(_FACTORIES[value[0]], mapping(value[1]))
    if tag == FLOAT:
        return float(value)
    if tag == INT:
        return int(value, 16)
    if tag == BYTES:
        return base64.b64decode(value, validate=True)
    if tag == SCALAR:
        return _scalar(value[0], unpack(value[1], take))
    if tag == DTYPE and isinstance(getattr(torch, value, None), torch.dtype):
        return getattr(torch, value)
    if tag == DEVICE:
        return _device(value)
    raise ValueError(f"{tag!r} of {value!r}, which this version does not know")


def _scalar(name: str, value: object) -> Any:
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{value!r} for a number")
    try:
        with np.errstate(all="ignore"):
            return np.array(value).astype(_SCALAR_KINDS[name])[()]
    except OverflowError as error:
        raise ValueError(f"{value!r} for a number of {name}") from error


def _device(text: str) -> torch.device:
    try:
        return torch.device(str(text))
    except RuntimeError as error:
        raise ValueError(f"no device {text!r}") from error


def _tensor_of(array: np.ndarray[Any, Any], path: str) -> torch.Tensor:
    """A tensor of the array's elements as they are now: an array may be read-only, or have steps that torch has not."""
    try:
        return torch.from_numpy(np.array(array, order="C"))
    except (TypeError, ValueError) as error:
        raise _unsupported(path, f"a NumPy array of {array.dtype!r}") from error


def _unsupported(path: str, found: str) -> UnsupportedStateError:
    return UnsupportedStateError(
        path,
        found=found,
        expected="tensors, NumPy arrays, numbers, texts, bytes, None, and lists, tuples, sets and dicts of them",
        remedy="Leave it out of the state, or turn it into these.",
    )
