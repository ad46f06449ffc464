"""Memory of the host that a GPU writes into on its own. What is written there is not known here.

torch's own pinned memory is taken in powers of two: of a state that is a little larger than one, twice as much.
"""

from __future__ import annotations

import mmap
import os

import torch

from milepost.format.schema import PLACED_REMAINDER


class _Pages(mmap.mmap):
    """Pages of this process that the driver was told of, until nobody holds them any more."""

    def pin(self, address: int) -> None:
        torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(address, len(self), 0))  # type: ignore[no-untyped-call]
        self._pinned = address, os.getpid()

    def __del__(self) -> None:
        address, process = getattr(self, "_pinned", (0, 0))
        if process == os.getpid():  # a forked child has pages of its own
            torch.cuda.cudart().cudaHostUnregister(address)  # type: ignore[no-untyped-call]


def pinned(nbytes: int) -> torch.Tensor:
    """New memory that lies as large contents do in a file; what it is filled with is not said.

    Raises:
        RuntimeError: The driver does not take it.
        MemoryError: There is not so much.
    """
    try:
        pages = _Pages(-1, PLACED_REMAINDER + nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{nbytes} bytes of pinned memory") from error
    pages.madvise(mmap.MADV_DONTFORK)  # a child would share them, and the first to write would get others
    memory = torch.frombuffer(pages, dtype=torch.uint8)
    memory[:: mmap.PAGESIZE].zero_()  # by several threads, before one has to do it
    pages.pin(memory.data_ptr())
    return memory[PLACED_REMAINDER:]
