"""The one rule for a policy's number: above zero, or the policy would mean nothing, or expire the newest."""

from __future__ import annotations

from milepost.errors import SettingError


def check_positive(where: str, number: float) -> None:
    """Raise `SettingError` unless `number` is above zero."""
    if not number > 0:
        raise SettingError(
            where, found=f"{number!r}", expected="a number above zero", remedy="To have no such policy, leave it out."
        )
