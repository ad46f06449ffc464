"""A stored checkpoint: its index once, contents on demand, each checked before it is handed out. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from milepost.errors import DamagedCheckpointError, NotACheckpointError
from milepost.format import encryption
from milepost.format.ckpt import Checksum
from milepost.format.containers import read_index, verify_framing
from milepost.format.spec import Entry, Index
from milepost.storage.base import Storage, StoredFile

BLOCK_NBYTES = 4 << 20
"""Bytes read and checked at a time: small enough that the checksum finds them in the processor's cache."""


class Reader:
    """An open checkpoint: one `.ckpt` or safetensors file; an `OpenFile`.

    Args:
        storage: The folder.
        name: The file's name in it.
        dec_key: The key of an encrypted file.
        dec_mode: How it is encrypted: ``AES-GCM``, ``AES-CBC`` or ``SM4-CBC``.
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
        file: StoredFile | None = None,
    ) -> None:
        self._stored = storage.open(name) if file is None else file
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
        self._stream(name, self.entry(name), buffer)

    def check(self, name: str) -> None:
        """Check the content of `name` without keeping it.

        Raises:
            DamagedCheckpointError: The content is not what was saved.
        """
        self._stream(name, self.entry(name), None)

    def _stream(self, name: str, entry: Entry, buffer: memoryview | None) -> None:
        """Read an entry block by block, into `buffer` or over one spare block, and check it."""
        checksum = Checksum()
        spare = memoryview(bytearray(min(BLOCK_NBYTES, entry.nbytes) if buffer is None else 0))
        done = 0
        for extent in entry.extents:
            for start in range(0, extent.length, BLOCK_NBYTES):
                nbytes = min(BLOCK_NBYTES, extent.length - start)
                block = spare[:nbytes] if buffer is None else buffer[done : done + nbytes]
                self._file.readinto(extent.offset + start, block)
                checksum.update(block)
                done += nbytes
        if entry.checksum is not None and checksum.value() != entry.checksum:
            raise DamagedCheckpointError(
                f"{self.where}, entry {name!r}",
                found=f"content with the checksum {checksum.value():016x}",
                expected=f"{entry.checksum:016x}, as saved",
                remedy="The file was changed after it was saved; load an earlier checkpoint.",
            )

    def verify(self, on_checked: Callable[[int], object] = lambda _: None) -> None:
        """Check every byte of the file, reading each entry once; memory does not grow with the file.

        Args:
            on_checked: Is told of the bytes of each entry that was checked.

        Raises:
            DamagedCheckpointError: An entry, or what stands between the entries, is not what was saved.
        """
        verify_framing(self._file, self.index, self.where)
        for name, entry in self.index.entries.items():
            self._stream(name, entry, None)
            on_checked(entry.nbytes)

    def close(self) -> None:
        """Close the file."""
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
