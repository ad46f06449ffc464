"""The one rule for names inside a folder: plain, so that nothing read or written can leave it."""

from __future__ import annotations

from milepost.errors import SettingError

SEPARATORS = ("/", "\\", "\0")


def check_name(where: str, name: str) -> str:
    """Return `name` if it stays in its folder, else raise `SettingError`."""
    if name in ("", ".", "..") or any(separator in name for separator in SEPARATORS):
        raise SettingError(
            where,
            found=f"the file name {name!r}",
            expected="a plain name without separators",
            remedy="Give the folder as the directory, and only the last part as the name.",
        )
    return name
