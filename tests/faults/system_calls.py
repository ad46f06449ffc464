"""The system calls that Python code makes on files: counted, cut off by a kill, refused, or done by half.

What should come of it is judged elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from milepost.storage import system

_READING = "access fstat fstatvfs listdir lstat pread preadv read scandir stat statvfs"
_CHANGING = (
    "chmod close fchmod fdatasync fsync ftruncate link mkdir open posix_fallocate pwrite pwritev remove rename replace "
    "rmdir symlink truncate unlink utime write writev"
)
LIBRARY = {"fallocate", "sync_file_range"}
"""Calls that go through the C library, and give their errno back instead of raising it."""
NAMES = {os: f"{_READING} {_CHANGING}".split(), fcntl: ["fcntl", "flock", "ioctl", "lockf"]}
READING = frozenset(_READING.split())
"""Calls that leave everything as it was: to be killed before or after one is the same."""

write, pwrite, pwritev = os.write, os.pwrite, os.pwritev  # as they are, whatever is watched
WRITING = {"write": write, "pwrite": pwrite, "pwritev": pwritev}


@dataclass(frozen=True)
class Call:
    """One call: its number, counted from 1, its name and its arguments."""

    number: int
    name: str
    arguments: tuple[Any, ...]


Meet = Callable[[Call, Callable[[], Any]], Any]
"""Stands in the way of each call: is given the call and the way to do it, and returns what the call returns."""


class SystemCalls:
    """A ``with`` block in which each call of this thread, and of those that begin in it, goes through `meet`.

    Attributes:
        calls: Those that were made.
    """

    def __init__(self, meet: Meet = lambda call, do: do()) -> None:
        self.calls: list[Call] = []
        self._meet = meet
        self._others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
        self._one_by_one = threading.RLock()
        self._before: list[tuple[ModuleType, str, Any]] = []

    def __enter__(self) -> SystemCalls:
        for module, names in NAMES.items():
            for name in names:
                self._before.append((module, name, getattr(module, name)))
                setattr(module, name, self._watched(name, getattr(module, name)))
        self._before.append((system, "_call", system._call))
        system._call = self._watched_library(system._call)
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, real in self._before:
            setattr(module, name, real)

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return self._make(name, arguments, lambda: real(*arguments, **named))

        return call

    def _watched_library(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(name: str, *arguments: Any) -> int:
            assert name in LIBRARY
            try:
                return self._make(name, arguments, lambda: real(name, *arguments))
            except OSError as error:
                return error.errno

        return call

    def _make(self, name: str, arguments: tuple[Any, ...], do: Callable[[], Any]) -> Any:
        if threading.get_ident() in self._others:
            return do()
        with self._one_by_one:
            self.calls.append(Call(len(self.calls) + 1, name, arguments))
            return self._meet(self.calls[-1], do)


def kill_at(number: int, moment: str) -> Meet:
    """Kill this process ``before``, ``after`` or, where it is a write, ``halfway`` through one call.

    Args:
        number: Which call, counted from 1 among those that change something.
        moment: When.
    """
    changes = 0

    def meet(call: Call, do: Callable[[], Any]) -> Any:
        nonlocal changes
        changes += call.name not in READING
        if changes != number:
            return do()
        if moment == "after":
            do()
        elif moment == "halfway" and call.name in WRITING:
            half(call)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("outlived a SIGKILL")

    return meet


def refuse_at(number: int, reason: int, *, for_ever: bool) -> Meet:
    """Refuse one call with an errno, and, if `for_ever`, every later one."""

    def meet(call: Call, do: Callable[[], Any]) -> Any:
        if call.number != number and not (for_ever and call.number > number):
            return do()
        if call.name == "close":
            do()  # Linux lets go of the descriptor even where it says that closing failed
        raise OSError(reason, os.strerror(reason))

    return meet


def shorten_at(number: int) -> Meet:
    """Let one write take only half of what it was given: which, counted from 1 among the writes."""
    writes = 0

    def meet(call: Call, do: Callable[[], Any]) -> Any:
        nonlocal writes
        writes += call.name in WRITING
        return half(call) if writes == number and call.name in WRITING else do()

    return meet


def half(call: Call) -> int:
    """Write half of what a call was given."""
    descriptor, content, *offset = call.arguments
    if call.name == "pwritev":  # its last piece is the large one
        *first, last = content
        return pwritev(descriptor, [*first, last[: len(last) // 2]], *offset)
    return WRITING[call.name](descriptor, memoryview(content)[: max(1, len(content) // 2)], *offset)
