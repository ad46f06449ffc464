"""Paths as they are given by a user, checked before anything is done with them. Nothing is opened here."""

from __future__ import annotations

import os
from pathlib import Path

from milepost.errors import SettingError, SettingTypeError


def check_ckpt_file_name(ckpt_file_name: object) -> Path:
    """Return the path that a checkpoint is saved to or loaded from, or raise `SettingTypeError`."""
    if not isinstance(ckpt_file_name, str | os.PathLike) or not os.fspath(ckpt_file_name):
        raise SettingTypeError(
            "ckpt_file_name",
            found=repr(ckpt_file_name),
            expected="the path of a checkpoint",
            remedy="Give a str or a Path.",
        )
    return Path(ckpt_file_name)


def check_which(which: object) -> Path:
    """Return the path of a checkpoint that is asked for, or raise `SettingTypeError`."""
    if not isinstance(which, str | os.PathLike):
        raise SettingTypeError(
            "which",
            found=repr(which),
            expected="the path of a checkpoint",
            remedy="Give a str or a Path; best() and latest() are None as long as there is none.",
        )
    return Path(which)


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
