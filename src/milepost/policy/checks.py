"""The rules for what a policy is given: above zero, or it would mean nothing, or expire the newest; and policies."""

from __future__ import annotations

import numbers
from typing import Any

from milepost.errors import SettingError, SettingTypeError

_REMEDY = "To have no such policy, leave it out."


def check_positive(where: str, number: object) -> None:
    """Raise `SettingError` unless `number` is a number above zero."""
    _check(where, number, numbers.Real, "a number above zero")


def check_count(where: str, number: object) -> None:
    """Raise `SettingError` unless `number` is a whole number above zero."""
    _check(where, number, numbers.Integral, "a whole number above zero")


def check_policy(where: str, policy: object, verb: str) -> None:
    """Raise `SettingTypeError` unless `policy` is an object that has the `verb` of such a policy."""
    if isinstance(policy, type) or not callable(getattr(policy, verb, None)):
        raise SettingTypeError(
            where,
            found=f"{policy!r:.80}",
            expected=f"a policy, that is, an object with a method {verb}()",
            remedy="milepost.policy.save and milepost.policy.keep have them, e.g. EveryEpochs(1) and KeepLast(5).",
        )


def _check(where: str, number: Any, kind: Any, expected: str) -> None:
    if isinstance(number, bool) or not isinstance(number, kind):
        raise SettingTypeError(where, found=f"{number!r:.80}", expected=expected, remedy=_REMEDY)
    if not number > 0:
        raise SettingError(where, found=f"{number!r}", expected=expected, remedy=_REMEDY)
