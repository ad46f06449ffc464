"""A planned checkpoint into a storage. When it is written, and what it is called, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from milepost.format.spec import Layout
from milepost.storage.base import Stat, Storage


def write(
    storage: Storage,
    name: str,
    plan: Layout,
    *,
    is_durable: bool = True,
    before_commit: Callable[[], object] = lambda: None,
) -> Stat:
    """Stream `plan` into `storage` and return once the file is under `name`, durable unless it need not be.

    Each array is released as soon as the storage has taken its bytes in; when this returns or raises, all of them are.

    Args:
        storage: Where to.
        name: What the file is called.
        plan: What it holds.
        is_durable: Whether to return only when a power cut can no longer take it away.
        before_commit: Called when all bytes are taken in and all arrays released; what it raises gives the save up.

    Raises:
        SaveError: The storage refused; what had the name is untouched, nothing unfinished is left.
    """
    try:
        with storage.create(name, plan.nbytes, is_durable=is_durable) as file:
            for chunk in plan.chunks():
                file.write(chunk)
            plan.release()
            before_commit()
            return file.commit()
    finally:
        plan.release()
