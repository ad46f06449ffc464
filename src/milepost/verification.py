"""`verify`: files and folders, read from end to end and checked. What is to come of damage is not known here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from milepost.engine.open_file import OpenFile
from milepost.errors import CheckpointNotFoundError, MilepostError
from milepost.interop.files import open_file
from milepost.storage.local import LocalStorage

SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
"""How the files of a folder end that are checked."""

_MOST_THREADS = 4
"""Files at once; large entries of a file are checked by several threads, too."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about a file.

    Args:
        path: The file.
        entries: How many entries it has; 0 if it could not be opened.
        nbytes: Its size in bytes, as far as it could be opened.
        has_checksums: Whether every content was compared with a checksum; else what can be checked is the structure.
        error: What is wrong with the file, or None if it is sound.
    """

    path: Path
    entries: int
    nbytes: int
    has_checksums: bool
    error: MilepostError | None


def files_in(path: str | os.PathLike[str]) -> list[Path]:
    """Return the checkpoints of a folder, by name; a path that is no folder stands for itself.

    Raises:
        CheckpointNotFoundError: The folder has none.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    names = sorted(stat.name for stat in LocalStorage(folder).list() if stat.name.endswith(SUFFIXES))
    if not names:
        raise CheckpointNotFoundError(
            folder,
            found=f"no file that ends with {' or '.join(SUFFIXES)}",
            expected="a folder with checkpoints",
            remedy="Check the path.",
        )
    return [folder / name for name in names]


def verify(
    *paths: str | os.PathLike[str],
    threads: int | None = None,
    on_checked: Callable[[int], object] = lambda _: None,
    open_with: Callable[[Path], OpenFile] = open_file,
) -> Iterator[Verdict]:
    """Check every byte of files, and of the checkpoints in folders; each verdict comes when its turn has come.

    Files are of any kind that `milepost.interop.files.open_file` opens.

    Args:
        paths: Files and folders.
        threads: How many files are read at once; by default as many as there are processors, at most 4.
        on_checked: Is told, by any thread, of bytes that were checked.
        open_with: Opens a file; one that is encrypted needs its key.

    Returns:
        A verdict for each file, in order. A file that is damaged, missing or something else is told of, not raised.

    Raises:
        CheckpointNotFoundError: A folder has no checkpoint.

    Example:
        >>> import tempfile, torch
        >>> from milepost import save_checkpoint
        >>> path = save_checkpoint(torch.nn.Linear(3, 2), tempfile.mkdtemp() + "/linear.ckpt")
        >>> [(verdict.path.name, verdict.error) for verdict in verify(path.parent)]
        [('linear.ckpt', None)]
    """
    files = [file for path in paths for file in files_in(path)]
    return _verify(files, threads or min(_MOST_THREADS, os.cpu_count() or 1), on_checked, open_with)


def _verify(
    files: Iterable[Path], threads: int, on_checked: Callable[[int], object], open_with: Callable[[Path], OpenFile]
) -> Iterator[Verdict]:
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(lambda file: _verdict(file, on_checked, open_with), files)
    finally:  # also where nobody asks for the rest
        pool.shutdown(cancel_futures=True)


def _verdict(path: Path, on_checked: Callable[[int], object], open_with: Callable[[Path], OpenFile]) -> Verdict:
    entries, nbytes, has_checksums = 0, 0, False
    try:
        with open_with(path) as file:
            entries, nbytes = len(file.index.entries), file.index.nbytes
            has_checksums = all(entry.checksum is not None for entry in file.index.entries.values())
            file.verify(on_checked)
    except MilepostError as error:
        return Verdict(path, entries, nbytes, has_checksums, error)
    return Verdict(path, entries, nbytes, has_checksums, None)
