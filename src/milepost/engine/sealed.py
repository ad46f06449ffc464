"""A folder whose checkpoints have something around them: each passes through a filter as it is written and read.

Whoever works on the folder need not know of it. Other files, such as a run's metrics, are as they are.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType

from milepost.format import encryption
from milepost.format.containers import Packaging
from milepost.format.spec import Filter
from milepost.storage.base import NewFile, Stat, StoredFile
from milepost.storage.local import LocalStorage

SUFFIX = ".ckpt"


class SealedStorage(LocalStorage):
    """A folder of the local file system whose `.ckpt` files are packaged.

    Args:
        directory: The folder.
        packaging: What goes around each `.ckpt` that is written. One that is encrypted is read with its key.
    """

    def __init__(self, directory: str | os.PathLike[str], packaging: Packaging) -> None:
        super().__init__(directory)
        self._packaging = packaging

    def create(self, name: str, nbytes: int, *, is_durable: bool = True, is_background: bool = False) -> NewFile:
        """Begin a file that is `nbytes` bytes long before it is packaged."""
        around = self._packaging.around() if name.endswith(SUFFIX) else None
        if around is None:
            return super().create(name, nbytes, is_durable=is_durable, is_background=is_background)
        nbytes = around.nbytes_of(nbytes)
        return _NewSealedFile(super().create(name, nbytes, is_durable=is_durable, is_background=is_background), around)

    def open(self, name: str) -> StoredFile:
        """Open a file; one that is encrypted is what was encrypted."""
        file = super().open(name)
        if self._packaging.enc_key is None or encryption.mode_of(file) is None:
            return file
        try:
            return _SealedFile(file, self._packaging.enc_key, self._packaging.enc_mode)
        except BaseException:
            file.close()
            raise

    def link(self, source: str, name: str) -> None:
        """A second name is for the same bytes: where it takes a copy, nothing goes around them again."""
        LocalStorage(self.directory).link(source, name)


class _SealedFile(encryption.Decrypted):
    """An encrypted file that is open for reading."""

    def __init__(self, file: StoredFile, key: bytes, mode: str) -> None:
        super().__init__(file, file.where, key, mode)
        self._file = file
        self._lock = threading.Lock()  # the block at hand is one for all threads

    def readinto(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            super().readinto(offset, buffer)

    def map(self) -> memoryview:
        """All of the file, in memory: there is nothing on the disk that could be mapped."""
        return memoryview(bytearray(self.read(0, self.nbytes)))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _SealedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _NewSealedFile:
    """A file in the making."""

    def __init__(self, file: NewFile, around: Filter) -> None:
        self._file = file
        self._around = around

    def write(self, content: memoryview | bytes) -> None:
        for chunk in self._around.take(content):
            self._file.write(chunk)

    def commit(self) -> Stat:
        for chunk in self._around.finish():
            self._file.write(chunk)
        return self._file.commit()

    def discard(self) -> None:
        self._file.discard()

    def __enter__(self) -> _NewSealedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
