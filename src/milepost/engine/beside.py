"""Checksums in a thread of their own, while the blocks are written. What is written is not known here."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from milepost.format.checksum import Checksum

SMALL_NBYTES = 128 << 10
"""To hand over less takes longer than to compute it."""

_Order = tuple["_Checksum", Any]


class Beside:
    """The thread; it lives as long as the ``with`` block.

    >>> with Beside() as beside:
    ...     checksum = beside.checksum()
    ...     checksum.update(bytes(1 << 20))
    ...     checksum.value() == Checksum.of(bytes(1 << 20))
    True
    """

    def __init__(self) -> None:
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="milepost-checksum", daemon=True)

    def checksum(self) -> Checksum:
        """A checksum whose `update` returns at once: until its `value` is known, the block must stay as it is."""
        return _Checksum(self._orders) if self._thread.is_alive() else Checksum()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            checksum, block = order
            checksum.take(block)
            del order, checksum, block  # nothing is held while there is nothing to do

    def __enter__(self) -> Beside:
        with suppress(RuntimeError):  # an interpreter that is about to end may have no more threads
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._orders.put(None)
            self._thread.join()


class _Checksum(Checksum):
    def __init__(self, orders: SimpleQueue[_Order | None]) -> None:
        super().__init__()
        self._orders = orders
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        self._waiting = 0

    def update(self, block: bytes | bytearray | memoryview) -> None:
        if len(block) < SMALL_NBYTES and not self._waiting:
            super().update(block)
            return
        self._waiting += 1
        self._orders.put((self, block))

    def take(self, block: bytes | bytearray | memoryview) -> None:
        """Compute, in the thread."""
        failure = None
        try:
            super().update(block)
        except BaseException as error:  # raised where the value is asked for
            failure = error
        self._done.put(failure)

    def value(self) -> int:
        while self._waiting:
            failure = self._done.get()
            self._waiting -= 1
            if failure is not None:
                raise failure
        return super().value()
