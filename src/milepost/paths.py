"""Paths as they are given by a user, checked before anything is done with them. Nothing is opened here."""

from __future__ import annotations

import os
from pathlib import Path

from milepost.errors import SettingError, SettingTypeError


def check_path(
    setting: str, value: object, what: str = "the path of a checkpoint", remedy: str = "Give a str or a Path."
) -> Path:
    """Return what a setting says as a path, or raise `SettingTypeError` with what was expected and the remedy."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingTypeError(setting, found=repr(value), expected=what, remedy=remedy)
    return Path(value)


def check_directory(directory: str | os.PathLike[str]) -> Path:
    """Return the folder as an absolute path, or raise `SettingError` if nothing can be written there."""
    if not isinstance(directory, str | os.PathLike):
        raise SettingTypeError(
            "directory", found=repr(directory), expected="the path of a folder", remedy="Give a str or a Path."
        )
    path = Path(directory).absolute()
    existing = next(parent for parent in [path, *path.parents] if parent.exists())
    if not str(directory):
        found = "an empty path"
    elif not existing.is_dir():
        found = f"{path}, where {existing} is not a folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        found = f"{path}, where {existing} cannot be written to"
    else:
        return path
    raise SettingError(
        "directory", found=found, expected="a folder that can be written to or made", remedy="Give another one."
    )
