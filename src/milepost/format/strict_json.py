"""JSON that every language reads: UTF-8, text keys, finite numbers. What the objects mean is not known here.

Source: RFC 8259, and RFC 7493 (I-JSON) for what is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from milepost.errors import UnsupportedStateError

DEPTH_LIMIT = 100
"""Levels of nesting; far below where Python's own parser gives up, and a bound for circles."""


def encode(value: object, where: str) -> bytes:
    """Return `value` as compact JSON in UTF-8.

    Args:
        value: Mappings with text keys, lists, tuples (which become lists), texts, bool, None, int, finite float.
        where: What the value is called in messages, e.g. ``metadata``.

    Raises:
        UnsupportedStateError: The value holds something else; the path to it is named.

    >>> encode({"epoch": 3, "loss": [0.5, None]}, "metadata")
    b'{"epoch":3,"loss":[0.5,null]}'
    """
    return dump(_plain(value, where, DEPTH_LIMIT))


def dump(value: object) -> bytes:
    """Return `value`, known to be plain, as compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def decode(text: bytes) -> Any:
    """Return the value of a JSON text in UTF-8; what is in it is still to be checked, by `check` or otherwise.

    Raises:
        ValueError: It is no JSON, has a key twice, or is nested without end.
    """
    try:
        return json.loads(text.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("nesting without end") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"the number {constant}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key twice in one object")
    return value


def check(value: object, depth: int = DEPTH_LIMIT) -> None:
    """Go through what `decode` returned, and refuse what `encode` would not have written.

    Raises:
        ValueError: It is nested too deep, or has a number of more than 64 bits, or half of a surrogate pair.
    """
    if isinstance(value, str):
        if not is_unicode(value):
            raise ValueError("half of a surrogate pair")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ValueError("a whole number of more than 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):  # 1e999 is a number of JSON, but of no computer
            raise ValueError("a number too large")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise ValueError(f"nesting deeper than {DEPTH_LIMIT} levels")
        for item in value:
            check(item, depth - 1)
        for item in value.values() if isinstance(value, dict) else ():
            check(item, depth - 1)


def _plain(value: object, path: str, depth: int) -> object:
    """Copy `value` into plain dicts and lists, or refuse what is in it."""
    if depth == 0:
        raise _unsupported(path, f"nesting deeper than {DEPTH_LIMIT} levels")
    if value is None:
        return value
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise _unsupported(path, "a whole number of more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _unsupported(path, f"the number {value}, which JSON does not have")
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, Mapping):
        return {_text(key, f"{path}, a key"): _plain(item, f"{path}.{key}", depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}[{position}]", depth - 1) for position, item in enumerate(value)]
    raise _unsupported(path, f"a {type(value).__name__}")


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _unsupported(path, f"{value!r}, a {type(value).__name__}")
    if not is_unicode(value):
        raise _unsupported(path, f"{value!r}, which has no form in UTF-8")
    return value


def is_unicode(text: str) -> bool:
    """Whether `text` has a form in UTF-8, that is, holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unsupported(path: str, found: str) -> UnsupportedStateError:
    return UnsupportedStateError(
        path,
        found=found,
        expected="what JSON has: objects with text keys, arrays, texts, finite numbers, true, false, null",
        remedy="Store it as an array, or as a text.",
    )
