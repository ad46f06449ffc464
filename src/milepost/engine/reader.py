"""A stored checkpoint: its index once, contents on demand, each checked before it is handed out. No torch here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType

from milepost import parallel
from milepost.errors import DamagedCheckpointError, NotACheckpointError
from milepost.format import encryption
from milepost.format.ckpt import Checksum
from milepost.format.containers import read_index, verify_framing
from milepost.format.spec import Entry, Index
from milepost.storage.base import Storage, StoredFile

BLOCK_NBYTES = 256 << 10
"""Bytes read and checked at a time: small enough that the checksum finds them in the processor's cache."""

SMALL_NBYTES = 16 << 10
"""Smaller entries are read together with those around them: a system call each would cost more than the bytes."""

_SMALLEST_WINDOW, _LARGEST_WINDOW = 16 << 10, 1 << 20


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
        is_encrypted = dec_key is not None or isinstance(self._stored, encryption.Decrypted)
        self._turn: AbstractContextManager[object] = threading.RLock() if is_encrypted else nullcontext()
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
        content = bytearray(self.entry(name).nbytes)
        self.read_into(name, memoryview(content))
        return content

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Fill `buffer` (flat, format ``B``, of the entry's size) with the content of `name`, checked.

        Raises:
            DamagedCheckpointError: The content is not what was saved; the buffer then holds what was found.
        """
        self._stream(name, self.entry(name), buffer, is_checked=self._is_verifying)

    def check(self, name: str) -> None:
        """Check the content of `name` without keeping it.

        Raises:
            DamagedCheckpointError: The content is not what was saved.
        """
        if self._is_verifying:
            self._stream(name, self.entry(name), None, is_checked=True)

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

    def _stream(self, name: str, entry: Entry, buffer: memoryview | None, *, is_checked: bool) -> None:
        """Read an entry, into `buffer` or over one spare block, and check it."""
        with self._turn:
            self._read(name, entry, buffer, is_checked=is_checked)

    def _read(self, name: str, entry: Entry, buffer: memoryview | None, *, is_checked: bool) -> None:
        if entry.nbytes < SMALL_NBYTES and len(entry.extents) == 1:
            content = self._near(entry.extents[0].offset, entry.nbytes)
            if is_checked:
                self._compare(name, entry, Checksum.of(content))
            if buffer is not None:
                buffer[:] = content
            return
        checksum = Checksum()
        spare = memoryview(bytearray(min(BLOCK_NBYTES, entry.nbytes) if buffer is None else 0))
        done = 0
        for extent in entry.extents:
            for start in range(0, extent.length, BLOCK_NBYTES):
                nbytes = min(BLOCK_NBYTES, extent.length - start)
                block = spare[:nbytes] if buffer is None else buffer[done : done + nbytes]
                self._file.readinto(extent.offset + start, block)
                if is_checked:
                    checksum.update(block)
                done += nbytes
        if is_checked:
            self._compare(name, entry, checksum.value())

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

        def check(name: str, entry: Entry) -> None:
            self._stream(name, entry, None, is_checked=True)
            on_checked(entry.nbytes)

        parallel.run([(entry.nbytes, partial(check, name, entry)) for name, entry in self.index.entries.items()])

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


def _read_decrypted(file: encryption.Decrypted) -> Index:
    try:
        return read_index(file, file.where)
    except (DamagedCheckpointError, NotACheckpointError) as error:
        if file.is_authentic:
            raise
        # Without a tag, every key opens the file to something.
        raise encryption.closed(file.where) from error
