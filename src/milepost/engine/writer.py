"""A planned checkpoint into a storage. When it is written, and what it is called, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from milepost.engine.beside import Beside
from milepost.format.spec import Layout
from milepost.storage.base import NewFile, Stat, Storage

PARALLEL_NBYTES = 4 << 20
"""Smaller files are written before a thread has come to life."""


def write(
    storage: Storage,
    name: str,
    plan: Layout,
    *,
    is_durable: bool = True,
    is_background: bool = False,
    before_commit: Callable[[], object] = lambda: None,
) -> Stat:
    """Stream `plan` into `storage` and return once the file is under `name`, durable unless it need not be.

    Each array is released as soon as the storage has taken its bytes in; when this returns or raises, all of them are.

    Args:
        storage: Where to.
        name: What the file is called.
        plan: What it holds.
        is_durable: Whether to return only when a power cut can no longer take it away.
        is_background: Whether the training goes on meanwhile, so that this should not take a second processor.
        before_commit: Called when all bytes are taken in and all arrays released; what it raises gives the save up.

    Raises:
        SaveError: The storage refused; what had the name is untouched, nothing unfinished is left.
    """
    try:
        with storage.create(name, plan.nbytes, is_durable=is_durable, is_background=is_background) as file:
            if is_background or plan.nbytes < PARALLEL_NBYTES:
                _stream(plan.chunks(), file)
            else:
                with Beside() as beside:
                    _stream(plan.chunks(beside.checksum), file)
            plan.release()
            before_commit()
            return file.commit()
    finally:
        plan.release()


def _stream(chunks: Iterator[bytes | memoryview], file: NewFile) -> None:
    for chunk in chunks:
        file.write(chunk)
