"""The files and folders that commands are given. What is in them is not known here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import click

from milepost.engine.open_file import OpenFile
from milepost.engine.sealed import SealedStorage
from milepost.errors import CheckpointNotFoundError, DecryptionError, SettingError
from milepost.format.containers import Packaging
from milepost.format.encryption import DEFAULT, MODES, mode_of
from milepost.interop.files import open_file
from milepost.storage.local import LocalStorage

_MOST_KEY_NBYTES = 4096


@dataclass(frozen=True)
class Key:
    """How encrypted files are opened: the key, which is never shown, and the mode."""

    content: bytes | None = field(repr=False)
    mode: str

    def open_file(self, path: Path) -> OpenFile:
        """Open a file of any kind that Milepost reads; the key is for those that are encrypted."""
        return open_file(path, dec_key=self.of(path), dec_mode=self.mode)

    def of(self, path: Path) -> bytes | None:
        """The key for a file: none where it is not encrypted.

        Raises:
            DecryptionError: It is encrypted, and there is no key.
        """
        with LocalStorage(path.parent).open(path.name) as file:
            mode = mode_of(file)
        if mode is not None and self.content is None:
            raise DecryptionError(
                path,
                found=f"a file encrypted with {mode.name}",
                expected="its key",
                remedy=f"Add --dec-key-file FILE --dec-mode {mode.name}, where FILE holds the key.",
            )
        return None if mode is None else self.content


def folder(directory: Path, key: Key) -> LocalStorage:
    """Return the folder, which must be there; the key is for those of its checkpoints that are encrypted.

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
    if key.content is None:
        return LocalStorage(directory)
    return SealedStorage(directory, Packaging(enc_key=key.content, enc_mode=key.mode))


def key_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for encrypted files, and the function their `Key` as `key`."""

    @click.option(
        "--dec-key-file",
        type=click.Path(path_type=Path),
        envvar="MILEPOST_DEC_KEY_FILE",
        help="The file that holds the key of encrypted files (or set MILEPOST_DEC_KEY_FILE).",
    )
    @click.option(
        "--dec-mode", type=click.Choice(list(MODES)), default=DEFAULT, help=f"Their mode (default: {DEFAULT})."
    )
    @wraps(function)
    def with_key(*arguments: Any, dec_key_file: Path | None, dec_mode: str, **options: Any) -> Any:
        content = None if dec_key_file is None else read_key(dec_key_file)
        return function(*arguments, key=Key(content, dec_mode), **options)

    return with_key


def read_key(path: Path) -> bytes:
    """Read a key. What an editor or echo adds at the end of a file is no part of one."""
    with LocalStorage(path.parent).open(path.name) as file:
        content = file.read(0, min(file.nbytes, _MOST_KEY_NBYTES))
    lengths = {length for mode in MODES.values() for length in mode.key_nbytes}
    return content if len(content) in lengths else content.rstrip(b"\r\n")
