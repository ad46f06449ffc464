"""Two calls of Linux that Python does not have. Both only help: where they are missing, saving works without."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def reserve(descriptor: int, nbytes: int) -> None:
    """Let the file have `nbytes` bytes of the disk, zeros until they are written, where the file system can do that.

    Not `os.posix_fallocate`, which writes to every block where it cannot.

    Raises:
        OSError: There is no room for them.
    """
    number = _call("fallocate", descriptor, 0, 0, nbytes)
    if number in _FULL:
        raise OSError(number, os.strerror(number))


def start_writing(descriptor: int, offset: int, nbytes: int) -> None:
    """Let the disk begin with what was written there, so that an fsync finds less to wait for."""
    _call("sync_file_range", descriptor, offset, nbytes, _WRITE)


def _call(name: str, descriptor: int, *arguments: int) -> int:
    """Call a function of the C library; return 0, or its errno."""
    function = getattr(_library(), name, None)
    if function is None:
        return errno.ENOSYS
    kinds = {"fallocate": (int, "off", "off"), "sync_file_range": ("off", "off", int)}[name]
    values = [ctypes.c_int64(each) if kind == "off" else each for kind, each in zip(kinds, arguments, strict=True)]
    return 0 if function(descriptor, *values) == 0 else ctypes.get_errno()


@cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)
