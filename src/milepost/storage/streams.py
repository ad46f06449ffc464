"""Bytes into an open file: through the page cache, or past it. Names, locks and durability are not known here.

Past the page cache (O_DIRECT) no page of the cache is allocated, filled, and written back: the bytes are copied once,
into a small aligned buffer, which goes to the device while the next is filled. It pays for large files that must reach
the disk anyway. Where the processor's time counts for more than the file's, the device takes what is large from where
it lies, if it lies there as in the file, up to a multiple of what the device asks for. Through the page cache, a file
that must reach the disk is written back from the start on, not only by the fsync at its end.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

from milepost.storage import system

BUFFER_NBYTES = 4 << 20
"""Bytes that go to the device at once; a multiple of the alignment that O_DIRECT asks for, which is a page at most."""

BUFFERS, THREADS = 3, 2
"""One buffer is filled while two are on their way: a device that has the next order already does not pause."""

WRITEBACK_NBYTES = 8 << 20
"""Bytes in the page cache after which the disk is asked to begin with them."""

IN_PLACE_NBYTES = 256 << 10
"""To copy less costs less than a write of its own; some pages at least."""

MEMORY_ALIGNMENTS = (4, 512)
"""What devices may ask of memory that they read. The first is tried until it is refused, then the next."""

_PAGE_NBYTES = 4096
"""A multiple of what any device asks of places in the file."""

_SMALL_NBYTES = 64 << 10


class Stream(Protocol):
    """What takes a file's bytes, one after the other."""

    def write(self, content: memoryview) -> None:
        """Append `content` (flat, format ``B``), which may change once this returns."""

    def finish(self) -> int:
        """Wait until the system has all of it; return how many bytes that are."""

    def abandon(self) -> None:
        """Stop; harmless after `finish`."""


class ThroughCache:
    """Through the page cache.

    Args:
        descriptor: The file.
        is_early: Whether the disk is to begin as soon as there is something to write.
    """

    def __init__(self, descriptor: int, *, is_early: bool) -> None:
        self._descriptor = descriptor
        self._is_early = is_early
        self._nbytes = 0
        self._begun = 0

    def write(self, content: memoryview) -> None:
        """Hand the content to the system."""
        while content:
            done = os.write(self._descriptor, content)
            content = content[done:]
            self._nbytes += done
        waiting = self._nbytes - self._begun
        if self._is_early and waiting >= WRITEBACK_NBYTES:
            system.start_writing(self._descriptor, self._begun, waiting)
            self._begun = self._nbytes

    def finish(self) -> int:
        """Nothing to wait for."""
        return self._nbytes

    def abandon(self) -> None:
        """Nothing to stop."""


class PastCache:
    """Past the page cache; where the system refuses that in the middle, through it.

    Args:
        descriptor: The file, as `bypass` left it.
        is_in_place: Whether what is large is written from where it lies, if it can be. That spares the processor the
            copy, but takes longer: the next write is not begun meanwhile, and memory that others have cut into pages
            goes to the device in many pieces.
    """

    def __init__(self, descriptor: int, *, is_in_place: bool) -> None:
        self._descriptor = descriptor
        self._nbytes = 0
        self._error: BaseException | None = None
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._full: SimpleQueue[tuple[memoryview, int] | None] = SimpleQueue()
        for buffer in _buffers():
            self._free.put(buffer)
        self._buffer, self._filled = self._free.get(), 0
        self._alignments = list(MEMORY_ALIGNMENTS) if is_in_place else []
        self._threads: list[threading.Thread] = []
        for _ in range(THREADS):
            thread = threading.Thread(target=self._work, name="milepost-writer", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # an interpreter that is about to end may have no more
                break
            self._threads.append(thread)

    def write(self, content: memoryview) -> None:
        """Hand what can stay where it lies to the device; copy the rest into buffers, each of which goes when full."""
        while len(content) >= IN_PLACE_NBYTES and self._lies_right(content):
            content = self._write_in_place(content)
        while content:
            nbytes = min(len(content), BUFFER_NBYTES - self._filled)
            _copy(self._buffer, self._filled, content[:nbytes])
            content = content[nbytes:]
            self._filled += nbytes
            if self._filled == BUFFER_NBYTES:
                self._hand_over()

    def finish(self) -> int:
        """Wait for the device; what does not fill a buffer goes through the page cache."""
        self.abandon()
        self._raise()
        bypass(self._descriptor, is_on=False)
        _write_at(self._descriptor, self._buffer[: self._filled], self._nbytes)
        self._nbytes, self._filled = self._nbytes + self._filled, 0
        return self._nbytes

    def abandon(self) -> None:
        """Let the threads end with what they have."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._full.put(None)
        for thread in threads:
            thread.join()

    def _lies_right(self, content: memoryview) -> bool:
        """Whether the device may take the content from its memory, once it has come to the next page of the file."""
        if not self._alignments:
            return False
        return (_address(content) - self._nbytes - self._filled) % self._alignments[0] == 0

    def _write_in_place(self, content: memoryview) -> memoryview:
        """Write the buffer, filled up to a page, and the whole pages behind it; return what is left of the content."""
        self._raise()
        edge = -self._filled % _PAGE_NBYTES
        whole = (len(content) - edge) // _PAGE_NBYTES * _PAGE_NBYTES
        _copy(self._buffer, self._filled, content[:edge])
        pieces = [self._buffer[: self._filled + edge], content[edge : edge + whole]]
        try:
            _write_all_at(self._descriptor, pieces, self._nbytes)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EFAULT):
                raise
            del self._alignments[0]  # nothing of it counts as written: it is copied, or lies right for the next
            return content
        self._nbytes += self._filled + edge + whole
        self._filled = 0
        return content[edge + whole :]

    def _hand_over(self) -> None:
        if self._threads:
            self._full.put((self._buffer, self._nbytes))
            self._buffer = self._free.get()
            self._raise()
        else:
            self._write(self._buffer, self._nbytes)
        self._nbytes += BUFFER_NBYTES
        self._filled = 0

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (order := self._full.get()) is not None:
            buffer, offset = order
            try:
                if self._error is None:
                    self._write(buffer, offset)
            except BaseException as error:  # raised where the next buffer is waited for
                self._error = error
            self._free.put(buffer)

    def _write(self, buffer: memoryview, offset: int) -> None:
        try:
            _write_at(self._descriptor, buffer, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # A file system that takes the flag need not take the writes.
            bypass(self._descriptor, is_on=False)
            _write_at(self._descriptor, buffer, offset)


def bypass(descriptor: int, *, is_on: bool) -> None:
    """Turn O_DIRECT on or off, on the only descriptor that a held file may have; `OSError` where that is refused."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if is_on else flags & ~os.O_DIRECT)


def _buffers() -> list[memoryview]:
    """Memory that begins at a page, as O_DIRECT wants it; in huge pages, each of which is one piece for the device."""
    memory = mmap.mmap(-1, BUFFERS * BUFFER_NBYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):  # a kernel, or a Python, that has none
        memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    return [view[begin : begin + BUFFER_NBYTES] for begin in range(0, len(view), BUFFER_NBYTES)]


def _write_at(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        done = os.pwrite(descriptor, content, offset)
        content, offset = content[done:], offset + done


def _write_all_at(descriptor: int, pieces: list[memoryview], offset: int) -> None:
    while pieces := [piece for piece in pieces if piece]:
        done = os.pwritev(descriptor, pieces, offset)
        offset += done
        for place, piece in enumerate(pieces):
            pieces[place] = piece[done:]
            done = max(0, done - len(piece))


def _address(content: memoryview) -> int:
    import numpy as np

    return int(np.frombuffer(content, np.uint8).__array_interface__["data"][0])


def _copy(buffer: memoryview, offset: int, content: memoryview) -> None:
    if len(content) < _SMALL_NBYTES:
        buffer[offset : offset + len(content)] = content
        return
    # NumPy lets other threads run meanwhile, a slice of a memoryview does not. Not imported before it is needed:
    # tools that only look at files start sooner.
    import numpy as np

    np.copyto(np.frombuffer(buffer, np.uint8, len(content), offset), np.frombuffer(content, np.uint8))
