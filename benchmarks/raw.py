"""What the machine can do at most with the same bytes: writes, reads and copies with nothing around them."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.workloads import Workload

_PIECE_NBYTES, _PIECES = 2 << 20, 512
_DIRECT_NBYTES = 8 << 20


def views(workload: Workload) -> list[memoryview]:
    """The tensors' own memory."""
    return [view(tensor) for tensor in workload.state.values()]


def view(tensor: torch.Tensor) -> memoryview:
    """A tensor's own memory."""
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def gathered_write(path: Path, contents: Iterable[memoryview], *, fsync: bool = False) -> None:
    """One file from where the bytes lie: pwritev, many pieces a call."""
    pieces = [view[at : at + _PIECE_NBYTES] for view in contents for at in range(0, len(view), _PIECE_NBYTES)]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    offset = 0
    for first in range(0, len(pieces), _PIECES):
        some = pieces[first : first + _PIECES]
        end = offset + sum(map(len, some))
        while offset < end:
            done = os.pwritev(descriptor, some, offset)
            offset += done
            while some and done >= len(some[0]):
                done -= len(some.pop(0))
            if done:
                some[0] = some[0][done:]
    if fsync:
        os.fsync(descriptor)
    os.close(descriptor)


class DirectWrite:
    """O_DIRECT from aligned memory, of as many bytes; the room is reserved, an fsync ends it."""

    def __init__(self, nbytes: int) -> None:
        self._nbytes = -(-nbytes // 4096) * 4096
        self._memory = mmap.mmap(-1, min(self._nbytes, 256 << 20))
        self._memory.write(os.urandom(1 << 20) * (len(self._memory) >> 20))

    def __call__(self, path: Path) -> None:
        """Write it."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.posix_fallocate(descriptor, 0, self._nbytes)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
        view = memoryview(self._memory)
        for offset in range(0, self._nbytes, _DIRECT_NBYTES):
            begin = offset % len(view)
            os.pwrite(descriptor, view[begin : begin + min(_DIRECT_NBYTES, self._nbytes - offset)], offset)
        os.fsync(descriptor)
        os.close(descriptor)


def read(path: Path, buffer: memoryview) -> None:
    """A file into memory that is there."""
    with open(path, "rb", buffering=0) as file:
        done = 0
        while done < len(buffer):
            done += file.readinto(buffer[done:])
