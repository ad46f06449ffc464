"""Paths as they are given by a user, checked before anything is done with them. Nothing is opened here."""

from __future__ import annotations

import os
from pathlib import Path

from milepost.errors import SettingTypeError


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
