"""A stored checkpoint: its index once, contents on demand, each checked before it is handed out. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import NamedTuple

from milepost import parallel
from milepost.errors import DamagedCheckpointError, NotACheckpointError
from milepost.format import encryption
from milepost.format.checksum import Checksum
from milepost.format.containers import read_index, verify_framing
from milepost.format.spec import Entry, Index
from milepost.storage.base import Storage, StoredFile

BLOCK_NBYTES = 512 << 10
"""Bytes read and checked at a time: small enough that the checksum finds them in the processor's cache."""

SMALL_NBYTES = 64 << 10
"""Smaller entries are read together with those around them: a system call each would cost more than the bytes."""

BATCH_NBYTES = 512 << 10
"""Bytes of small entries that are read at once, and are one job."""

_NEAR_NBYTES = 4 << 10
"""To read so much for nothing is quicker than another read."""

_SMALLEST_WINDOW, _LARGEST_WINDOW = 16 << 10, 1 << 20


class _Part(NamedTuple):
    """An entry to be read and checked, into `buffer` or over spare memory."""

    name: str
    entry: Entry
    buffer: memoryview | None


class Reader:
    """An open checkpoint: one `.ckpt` or safetensors file; an `OpenFile`.

    Args:
        storage: The folder.
        name: The file's name in it.
        dec_key: The key of an encrypted file.
        dec_mode: How it is encrypted: ``AES-GCM``, ``AES-CBC`` or ``SM4-CBC``.
        verify: Whether contents are compared with their checksums; without, only the index is checked.
        file: The file, where it is open already; the reader closes it.

    Raises:
        CheckpointNotFoundError: No such file.
        NotACheckpointError: The file is something else.
        DamagedCheckpointError: The file's structure is broken.
        DecryptionError: The file is encrypted, and does not open with this key and mode.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        *,
        dec_key: bytes | None = None,
        dec_mode: str = encryption.DEFAULT,
        verify: bool = True,
        file: StoredFile | None = None,
    ) -> None:
        self._stored = storage.open(name) if file is None else file
        self._is_verifying = verify
        self._window = 0, memoryview(b"")
        self._map: memoryview | None = None
        # Of an encrypted file one block is held: threads would take it from each other.
        self._is_encrypted = dec_key is not None or isinstance(self._stored, encryption.Decrypted)
        self._turn: AbstractContextManager[object] = threading.RLock() if self._is_encrypted else nullcontext()
        try:
            self.where = self._stored.where
            self._file: StoredFile | encryption.Decrypted = self._stored
            if dec_key is None:
                self.index = read_index(self._stored, self.where)
                self.container = self.index.container
            else:
                self._file = encryption.Decrypted(self._stored, self.where, dec_key, dec_mode)
                self.index = _read_decrypted(self._file)
                self.container = f"{self.index.container}, {dec_mode}"
        except BaseException:
            self._stored.close()
            raise

    def entry(self, name: str) -> Entry:
        """The entry that holds the content of `name`, also where `name` is an alias."""
        return self.index.entries[self.index.aliases.get(name, name)]

    def read(self, name: str) -> bytearray:
        """Return the content of `name`, checked."""
        entry = self.entry(name)
        content = bytearray(entry.nbytes)
        part = _Part(name, entry, memoryview(content))
        with self._turn:
            if entry.nbytes < SMALL_NBYTES and len(entry.extents) == 1:
                self._give(part, self._near(entry.extents[0].offset, entry.nbytes), is_checked=self._is_verifying)
            else:
                self._read_large(part, is_checked=self._is_verifying)
        return content

    def read_into(self, places: Iterable[tuple[str, memoryview]]) -> None:
        """Fill buffers (flat, format ``B``, of the entry's size) with the contents of names, checked.

        Raises:
            DamagedCheckpointError: A content is not what was saved; its buffer then holds what was found.
        """
        parts = [_Part(name, self.entry(name), buffer) for name, buffer in places]
        self._read_all(parts, is_checked=self._is_verifying)

    def check(self, names: Iterable[str]) -> None:
        """Check the contents of names without keeping them.

        Raises:
            DamagedCheckpointError: A content is not what was saved.
        """
        if self._is_verifying:
            self._read_all([_Part(name, self.entry(name), None) for name in names], is_checked=True)

    def view(self, name: str, alignment: int) -> memoryview | None:
        """Return the content of `name` in a copy-on-write map of the file, checked, if it can be had as one run.

        What is written to it stays in this process. The map lives as long as somebody has a view of it.

        Args:
            name: Of an entry or an alias.
            alignment: What the content's place must be a multiple of.

        Returns:
            A flat view, or None: the content is cut into slices, empty, not aligned, or encrypted.

        Raises:
            DamagedCheckpointError: The content is not what was saved.
        """
        entry = self.entry(name)
        (offset, length), *others = [(extent.offset, extent.length) for extent in entry.extents]
        if others or length == 0 or offset % alignment or self._file is not self._stored:
            return None
        if self._map is None:
            self._map = self._stored.map()
        if offset + length > len(self._map):
            self._file.read(offset, length)  # says that the file was cut short
        content = self._map[offset : offset + length]
        if self._is_verifying:
            self._compare(name, entry, Checksum.of(content))
        return content

    def _read_all(
        self, parts: Iterable[_Part], *, is_checked: bool, on_read: Callable[[int], object] = lambda _: None
    ) -> None:
        """Read entries, several at once: large ones each by itself, small ones with those that lie around them."""
        batches, large = _batches(parts)

        def read_batch(batch: list[_Part]) -> None:
            start = batch[0].entry.extents[0].offset
            with self._turn:
                content = memoryview(self._file.read(start, _end(batch[-1]) - start))
            for part in batch:
                (offset, length), *_ = part.entry.extents
                self._give(part, content[offset - start : offset - start + length], is_checked=is_checked)
                on_read(length)

        def read_large(part: _Part) -> None:
            with self._turn:
                self._read_large(part, is_checked=is_checked)
            on_read(part.entry.nbytes)

        jobs = [(part.entry, part.entry.nbytes, partial(read_large, part)) for part in large]
        jobs += [
            (batch[0].entry, sum(part.entry.nbytes for part in batch), partial(read_batch, batch)) for batch in batches
        ]
        if self._is_encrypted:  # in its order: of such a file one block is held, and decrypted anew after each jump
            for _, _, read in sorted(jobs, key=lambda job: job[0].extents[0].offset):
                read()
        else:
            parallel.run([(nbytes, read) for _, nbytes, read in jobs])

    def _give(self, part: _Part, content: memoryview, *, is_checked: bool) -> None:
        if is_checked:
            self._compare(part.name, part.entry, Checksum.of(content))
        if part.buffer is not None:
            part.buffer[:] = content

    def _read_large(self, part: _Part, *, is_checked: bool) -> None:
        buffer, checksum = part.buffer, Checksum()
        spare = memoryview(bytearray(min(BLOCK_NBYTES, part.entry.nbytes) if buffer is None else 0))
        done = 0
        for extent in part.entry.extents:
            for start in range(0, extent.length, BLOCK_NBYTES):
                nbytes = min(BLOCK_NBYTES, extent.length - start)
                block = spare[:nbytes] if buffer is None else buffer[done : done + nbytes]
                self._file.readinto(extent.offset + start, block)
                if is_checked:
                    checksum.update(block)
                done += nbytes
        if is_checked:
            self._compare(part.name, part.entry, checksum.value())

    def _near(self, offset: int, length: int) -> memoryview:
        """The bytes at a place, read together with what follows, the more the longer reads follow each other."""
        start, window = self._window  # one value, so that two threads do not mix two windows
        if not start <= offset <= offset + length <= start + len(window):
            is_near = start <= offset <= start + len(window) + _LARGEST_WINDOW
            nbytes = min(4 * len(window), _LARGEST_WINDOW) if is_near else 0
            nbytes = min(max(nbytes, length, _SMALLEST_WINDOW), max(length, self._file.nbytes - offset))
            start, window = self._window = offset, memoryview(self._file.read(offset, nbytes))
        return window[offset - start : offset - start + length]

    def _compare(self, name: str, entry: Entry, checksum: int) -> None:
        if entry.checksum is not None and checksum != entry.checksum:
            raise DamagedCheckpointError(
                f"{self.where}, entry {name!r}",
                found=f"content with the checksum {checksum:016x}",
                expected=f"{entry.checksum:016x}, as saved",
                remedy="The file was changed after it was saved; load an earlier checkpoint.",
            )

    def verify(self, on_checked: Callable[[int], object] = lambda _: None) -> None:
        """Check every byte of the file, reading each entry once; memory does not grow with the file.

        Args:
            on_checked: Is told, by any thread, of the bytes of each entry that was checked.

        Raises:
            DamagedCheckpointError: An entry, or what stands between the entries, is not what was saved.
        """
        verify_framing(self._file, self.index, self.where)
        parts = [_Part(name, entry, None) for name, entry in self.index.entries.items()]
        self._read_all(parts, is_checked=True, on_read=on_checked)

    def close(self) -> None:
        """Close the file; views of its map stay what they are."""
        self._map, self._window = None, (0, memoryview(b""))
        self._stored.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _batches(parts: Iterable[_Part]) -> tuple[list[list[_Part]], list[_Part]]:
    """Small entries in batches of neighbours, and those that are too large for that, or lie in pieces."""
    batches: list[list[_Part]] = []
    small: list[_Part] = []
    large: list[_Part] = []
    for part in parts:
        is_small = part.entry.nbytes < SMALL_NBYTES and len(part.entry.extents) == 1
        (small if is_small else large).append(part)
    begin = end = 0
    # An empty one may stand where another begins.
    for part in sorted(small, key=lambda part: (part.entry.extents[0].offset, _end(part))):
        offset = part.entry.extents[0].offset
        if not batches or offset > end + _NEAR_NBYTES or _end(part) > begin + BATCH_NBYTES:
            batches.append([])
            begin = offset
        batches[-1].append(part)
        end = _end(part)
    return batches, large


def _end(part: _Part) -> int:
    extent = part.entry.extents[-1]
    return extent.offset + extent.length


def _read_decrypted(file: encryption.Decrypted) -> Index:
    try:
        return read_index(file, file.where)
    except (DamagedCheckpointError, NotACheckpointError) as error:
        if file.is_authentic:
            raise
        # Without a tag, every key opens the file to something.
        raise encryption.closed(file.where) from error
