"""A model of a disk whose power may be cut: what was fsynced stays, of everything else any part may be gone.

It follows system calls, and knows of two things only: contents, which an fsync of the file makes durable, and names,
which an fsync of their folder makes durable. What is not durable yet may have reached the disk all the same, one
change without the other, in any order: that is all that POSIX promises, and file systems make use of it (Pillai et
al., "All File Systems Are Not Created Equal", OSDI 2014).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.faults.system_calls import Call

FOLDER = 0
"""What stands for a folder where a file's number would."""

State = frozenset[tuple[Path, bytes]]
"""The files that can be found after a cut."""


class Disk:
    """What is on the disk below a folder that exists."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[Path, int] = {root: FOLDER}
        self._changes: list[tuple[Path | None, Path | None, int]] = []  # a name that goes, one that comes, its number
        self._written: dict[int, bytes] = {}
        self._synced: dict[int, bytes] = {}
        self._opened: dict[int, Path | int] = {}
        self._positions: dict[int, int] = {}
        self._numbers = itertools.count(1)

    def note(self, call: Call, result: Any) -> None:
        """Follow one call that has succeeded."""
        note = getattr(self, f"_{call.name}", None)
        if note is not None:
            note(result, *call.arguments)

    def states(self) -> Iterator[State]:
        """Everything that a cut at this moment may leave."""
        assert len(self._changes) <= 10, "so many names that no fsync has made durable"
        for chosen in itertools.product((False, True), repeat=len(self._changes)):
            names = _changed(self._names, itertools.compress(self._changes, chosen))
            found = [path for path, number in names.items() if number != FOLDER and self._is_reachable(path, names)]
            for contents in (self._synced, self._written):
                yield frozenset((path, contents.get(names[path], b"")) for path in found)

    def _is_reachable(self, path: Path, names: dict[Path, int]) -> bool:
        parents = itertools.takewhile(lambda parent: parent != self._root.parent, path.parents)
        return all(parent in names for parent in parents)

    def _mkdir(self, result: None, path: Path, *_: Any) -> None:
        self._changes.append((None, Path(path), FOLDER))

    def _open(self, descriptor: int, path: Path, flags: int, *_: Any) -> None:
        path = Path(path)
        names = _changed(self._names, self._changes)
        if path not in names and flags & os.O_CREAT:
            names[path] = next(self._numbers)
            self._changes.append((None, path, names[path]))
        number = names.get(path, FOLDER)
        self._opened[descriptor] = path if number == FOLDER else number
        self._positions[descriptor] = 0

    def _write(self, nbytes: int, descriptor: int, content: memoryview) -> None:
        self._pwrite(nbytes, descriptor, content, self._positions[descriptor])
        self._positions[descriptor] += nbytes

    def _pwrite(self, nbytes: int, descriptor: int, content: memoryview, offset: int) -> None:
        # A direct write is on the disk at once, or it is not: the size that makes it visible needs the fsync.
        number = self._opened[descriptor]
        written = self._written.get(number, b"").ljust(offset, b"\0")
        self._written[number] = written[:offset] + bytes(content[:nbytes]) + written[offset + nbytes :]

    def _pwritev(self, nbytes: int, descriptor: int, pieces: list[memoryview], offset: int) -> None:
        self._pwrite(nbytes, descriptor, memoryview(b"".join(pieces)), offset)

    def _fallocate(self, result: int, descriptor: int, mode: int, offset: int, nbytes: int) -> None:
        if result == 0:
            number = self._opened[descriptor]
            self._written[number] = self._written.get(number, b"").ljust(offset + nbytes, b"\0")

    def _ftruncate(self, result: None, descriptor: int, nbytes: int) -> None:
        number = self._opened[descriptor]
        self._written[number] = self._written.get(number, b"")[:nbytes]

    def _fsync(self, result: None, descriptor: int) -> None:
        opened = self._opened[descriptor]
        if isinstance(opened, Path):
            done = [change for change in self._changes if (change[0] or change[1]).parent == opened]
            self._names = _changed(self._names, done)
            self._changes = [change for change in self._changes if change not in done]
        else:
            self._synced[opened] = self._written.get(opened, b"")

    def _replace(self, result: None, source: Path, target: Path) -> None:
        number = _changed(self._names, self._changes)[Path(source)]
        self._changes.append((Path(source), Path(target), number))

    def _link(self, result: None, source: Path, target: Path) -> None:
        self._changes.append((None, Path(target), _changed(self._names, self._changes)[Path(source)]))

    def _unlink(self, result: None, path: Path) -> None:
        self._changes.append((Path(path), None, FOLDER))


def _changed(names: dict[Path, int], changes: Any) -> dict[Path, int]:
    names = dict(names)
    for gone, come, number in changes:
        if gone is not None:
            names.pop(gone, None)
        if come is not None:
            names[come] = number
    return names
