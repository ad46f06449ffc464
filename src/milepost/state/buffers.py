"""Memory of the host for copies of tensors. How and when to copy is not known here."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import torch

from milepost.format.schema import PLACED_MODULUS, PLACED_NBYTES, PLACED_REMAINDER


class HostBuffers:
    """Buffers that are used again, because new memory costs more to touch than to fill. Not safe for threads.

    Attributes:
        nbytes: What all of them take.
        limit_nbytes: What all of them may take; None for half of what the machine has left when one has to be made.

    Example:
        >>> buffers = HostBuffers()
        >>> buffers.limit_nbytes = 100
        >>> first = buffers.take(60)
        >>> buffers.take(60) is None
        True
        >>> buffers.give(first)
        >>> buffers.take(60) is first
        True
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self.limit_nbytes: int | None = None
        self._free: defaultdict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)

    def take(self, nbytes: int, *, is_pinned: bool = False, is_needed: bool = False) -> torch.Tensor | None:
        """Return a buffer, or None where there is no room for it.

        Args:
            nbytes: Its size.
            is_pinned: Whether a GPU is to write into it on its own.
            is_needed: Whether nothing goes on without it, so that the limit does not count.
        """
        if kept := self._free[nbytes, is_pinned]:
            return kept.pop()
        if self.limit_nbytes is None:
            self.limit_nbytes = self.nbytes + available_nbytes() // 2
        if self.nbytes + nbytes > self.limit_nbytes:
            self._let_go()
            if self.nbytes + nbytes > self.limit_nbytes and not is_needed:
                return None
        try:
            buffer = _new(nbytes, is_pinned=is_pinned)
        except (RuntimeError, MemoryError):
            if is_needed:
                raise
            return None
        self.nbytes += nbytes
        return buffer

    def give(self, buffer: torch.Tensor, *, is_pinned: bool = False) -> None:
        """Take a buffer back."""
        self._free[buffer.numel(), is_pinned].append(buffer)

    def _let_go(self) -> None:
        """Give up what is of no use: sizes that nobody has asked for again."""
        self.nbytes -= sum(nbytes * len(kept) for (nbytes, _), kept in self._free.items())
        self._free.clear()


def _new(nbytes: int, *, is_pinned: bool) -> torch.Tensor:
    """A buffer that lies as large contents do in a file, so that a disk can take it without another copy.

    Not so a pinned one: torch makes a power of two of its size, which a few bytes more would double.
    """
    room = PLACED_MODULUS if nbytes >= PLACED_NBYTES and not is_pinned else 0
    buffer = torch.empty(nbytes + room, dtype=torch.uint8, device="cpu", pin_memory=is_pinned)
    begin = (PLACED_REMAINDER - buffer.data_ptr()) % PLACED_MODULUS if room else 0
    return buffer[begin : begin + nbytes]


def available_nbytes() -> int:
    """Memory that this process can still take without harm, as far as Linux says."""
    available = 2**62
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # a container's share, where it has one
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, max(0, limit - used))
    return available
