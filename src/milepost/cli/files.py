"""The files and folders that commands are given. What is in them is not known here."""

from __future__ import annotations

from pathlib import Path

from milepost.engine.reader import Reader
from milepost.errors import CheckpointNotFoundError, SettingError
from milepost.storage.local import LocalStorage


def folder(directory: Path) -> LocalStorage:
    """Return the folder, which must be there.

    Raises:
        CheckpointNotFoundError: It is not there.
        SettingError: It is a file.
    """
    if not directory.exists():
        raise CheckpointNotFoundError(
            directory, found="no such folder", expected="a folder with checkpoints", remedy="Check the path."
        )
    if not directory.is_dir():
        raise SettingError(
            directory,
            found="a file",
            expected="a folder with checkpoints",
            remedy=f"To look into a file: milepost inspect {directory}",
        )
    return LocalStorage(directory)


def open_file(path: Path) -> Reader:
    """Open a file of any kind that Milepost reads."""
    return Reader(LocalStorage(path.parent), path.name)
