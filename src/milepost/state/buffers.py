"""Memory of the host for copies of tensors, and the ways to copy into it. When to copy is decided elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch

from milepost.format.schema import ALIGNMENT, PLACED_MODULUS, PLACED_NBYTES, PLACED_REMAINDER
from milepost.state.pinned import pinned

_PIECE_NBYTES = 4 << 20
"""Pinned memory is had in pieces of at least this: what many small tensors need has room in a few."""


class HostBuffers:
    """Buffers that are used again, because new memory costs more to touch than to fill. Not safe for threads.

    Attributes:
        nbytes: What all of them take.
        limit_nbytes: What all of them may take.

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
        self.limit_nbytes = 0
        self._free: defaultdict[tuple[int, bool], list[torch.Tensor]] = defaultdict(list)
        self._piece = torch.empty(0, dtype=torch.uint8, device="cpu")

    def take(self, nbytes: int, *, is_pinned: bool = False, is_needed: bool = False) -> torch.Tensor | None:
        """Return a buffer, or None where there is no room for it.

        Args:
            nbytes: Its size.
            is_pinned: Whether a GPU is to write into it on its own.
            is_needed: Whether nothing goes on without it, so that the limit does not count.
        """
        if kept := self._free[nbytes, is_pinned]:
            return kept.pop()
        if self.nbytes + nbytes > self.limit_nbytes:
            self._let_go()
            if self.nbytes + nbytes > self.limit_nbytes and not is_needed:
                return None
        try:
            buffer = self._cut(nbytes) if is_pinned and nbytes < PLACED_NBYTES else _new(nbytes, is_pinned=is_pinned)
        except (RuntimeError, MemoryError):
            if is_needed:
                raise
            return None
        self.nbytes += nbytes
        return buffer

    def give(self, buffer: torch.Tensor, *, is_pinned: bool = False) -> None:
        """Take a buffer back."""
        self._free[buffer.numel(), is_pinned].append(buffer)

    def _cut(self, nbytes: int) -> torch.Tensor:
        """A part of a larger piece of pinned memory, which is had in pages."""
        room = -(-nbytes // ALIGNMENT) * ALIGNMENT  # so that what is behind it can hold any dtype
        if self._piece.numel() < room:
            self._piece = _new(_PIECE_NBYTES, is_pinned=True)
        buffer, self._piece = self._piece[:nbytes], self._piece[room:]
        return buffer

    def _let_go(self) -> None:
        """Give up what is of no use: sizes that nobody has asked for again."""
        self.nbytes -= sum(nbytes * len(kept) for (nbytes, _), kept in self._free.items())
        self._free.clear()


def _new(nbytes: int, *, is_pinned: bool) -> torch.Tensor:
    """A buffer that lies as large contents do in a file, so that a disk can take it without another copy."""
    if is_pinned:
        with suppress(RuntimeError):  # then any memory will do: the copy waits
            return pinned(nbytes)
    room = PLACED_MODULUS if nbytes >= PLACED_NBYTES else 0
    buffer = torch.empty(nbytes + room, dtype=torch.uint8, device="cpu")
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


class Lane(Protocol):
    """A way from one device to the host, as it was when a snapshot was begun.

    `is_async` says that a copy goes on after `copy` has returned: until what that returned has been called, or, for
    what the training does from then on, until `hold_training`.
    """

    is_async: bool

    def copy(self, place: torch.Tensor, tensor: torch.Tensor) -> Callable[[], object]:
        """Begin a copy, and return what waits for its end."""

    def hold_training(self) -> None:
        """Let what the training does on the device from now on come after the copies that were begun."""


class HostLane:
    """From memory to memory: a copy is done when it returns. Also for devices without streams."""

    is_async = False

    def copy(self, place: torch.Tensor, tensor: torch.Tensor) -> Callable[[], object]:
        """Copy."""
        place.copy_(tensor)
        return lambda: None

    def hold_training(self) -> None:
        """Nothing is under way."""


class CudaLane:
    """From a CUDA device into pinned memory, on a stream beside the training's, which nobody waits for on the host.

    Made where the training runs: the copies come after what its stream has been given so far.
    """

    is_async = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def copy(self, place: torch.Tensor, tensor: torch.Tensor) -> Callable[[], object]:
        """Begin a copy, and return what waits for the event behind it."""
        with torch.cuda.stream(self._stream):
            place.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return event.synchronize

    def hold_training(self) -> None:
        """Let the training's stream wait, on the device, for this one."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def lane_from(device: torch.device) -> Lane:
    """The way from a device to the host."""
    return CudaLane(device) if device.type == "cuda" else HostLane()
