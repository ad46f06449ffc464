"""A folder of the local file system. Committing is: sibling temporary file, fsync, replace, fsync of the folder.

Why each step is needed: the temporary file keeps a half-written file away from its final name; fsync before the rename
keeps a power cut from leaving an empty file under it; fsync of the folder keeps the rename itself (LevelDB issue 195,
RocksDB PR 10573 are what happens without). A failed fsync is never tried again: the kernel then counts the lost pages
as clean, and a second fsync would succeed without them (PostgreSQL, 2018). The temporary file is held, as `locks` says,
from its creation until it has its final name, so that a sweep can tell a living process's from a dead one's.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError, NotACheckpointError, ReadError, SaveError
from milepost.storage import locks, system
from milepost.storage.base import Lock, NewFile, Stat, StoredFile
from milepost.storage.names import check_name
from milepost.storage.streams import PastCache, Stream, ThroughCache, bypass

TEMPORARY_SUFFIX = ".tmp"
LOCK_SUFFIX = ".lock"

RESERVE_NBYTES = 4 << 20
"""From here on a file's room on the disk is taken before it is written; smaller ones do not gain by that."""

DIRECT_NBYTES = 256 << 20
"""From here on a file that has to be durable is written past the page cache, which is quicker (docs/performance.md).
Below, that is as quick through the cache, where the next load finds it."""

_ATTEMPTS = 10
_COPY_NBYTES = 4 * 2**20
_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.[0-9]+-[0-9a-f]+{re.escape(TEMPORARY_SUFFIX)}", re.DOTALL)

_REMEDIES = {
    errno.ENOSPC: "Free some space, or save to another disk.",
    errno.EDQUOT: "Free some of the quota, or save to another disk.",
    errno.EROFS: "Save to a folder that can be written to.",
    errno.EACCES: "Give this user the right to write to the folder, or save to another one.",
    errno.EPERM: "Give this user the right to write to the folder, or save to another one.",
    errno.ENOENT: "Do not remove the folder while it is in use.",
    errno.ENOTDIR: "Give a folder, not a file, as the directory.",
    errno.EEXIST: "Give a folder, not a file, as the directory.",
    errno.EISDIR: "Move away the folder that has the checkpoint's name.",
    errno.EIO: "Check the disk; earlier checkpoints are untouched.",
    errno.ENAMETOOLONG: "Choose a shorter prefix.",
}


def save_error(where: str, error: OSError) -> SaveError:
    """Turn the system's refusal into a `SaveError` that keeps its errno and says what to do."""
    failure = SaveError(
        where,
        found=error.strerror or str(error),
        expected="a file system that takes the file",
        remedy=_REMEDIES.get(error.errno or 0, "Check the disk and the folder; earlier checkpoints are untouched."),
    )
    failure.errno = error.errno
    return failure


class LocalStorage:
    """A folder of the local file system, made when the first file is created.

    Args:
        directory: The folder.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    def where(self, name: str = "") -> str:
        """The path, as text."""
        return str(self.directory / name)

    def list(self) -> list[Stat]:
        """The regular files of the folder, without unfinished ones and locks."""
        found = []
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and entry.name.endswith((TEMPORARY_SUFFIX, LOCK_SUFFIX)):
                        continue
                    try:
                        if entry.is_file():
                            status = entry.stat()
                            found.append(Stat(entry.name, status.st_size, status.st_mtime))
                    except FileNotFoundError:  # removed by somebody else since the folder was read
                        continue
        except FileNotFoundError:
            return []
        return found

    def open(self, name: str) -> StoredFile:
        """Open a regular file for reading; a link is followed, a folder, pipe or device is refused."""
        where = self.where(check_name(self.where(), name))
        try:
            # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
            descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(
                where,
                found="no such file",
                expected="a checkpoint",
                remedy="Check the path, and the folder the training wrote to.",
            ) from error
        except OSError as error:
            raise _read_error(where, error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise NotACheckpointError(
                where,
                found="a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device",
                expected="a regular file",
                remedy="Give the path of a .ckpt file.",
            )
        return LocalFile(where, descriptor, status.st_size)

    def create(self, name: str, nbytes: int, *, is_durable: bool = True, is_background: bool = False) -> NewFile:
        """Begin a file of `nbytes` bytes; raises `SaveError` at once if the disk has less room than that."""
        where = self.where(check_name(self.where(), name))
        try:
            _make_folder(self.directory, is_durable=is_durable)
            _check_room(self.directory, where, nbytes)
            return NewLocalFile(self.directory, name, nbytes, is_durable=is_durable, is_background=is_background)
        except SaveError:
            raise
        except OSError as error:
            raise save_error(where, error) from error

    def link(self, source: str, name: str) -> None:
        """Make a hard link under a temporary name, then rename it, then fsync the folder; or else a copy."""
        old, new = (self.where(check_name(self.where(), each)) for each in (source, name))
        try:
            # A rename between two names of one file does nothing, and would leave the temporary one behind.
            if _is_same_file(old, new) or self._is_linked(old, name):
                _sync_folder(self.directory)
                return
        except OSError as error:
            raise save_error(new, error) from error
        self._copy(source, name)

    def _is_linked(self, old: str, name: str) -> bool:
        """Whether it could be done with a hard link, which many file systems do not have, or not for every file."""
        for _ in range(_ATTEMPTS):
            temporary = _temporary(self.directory, name)
            try:
                os.link(old, temporary)
            except OSError:  # whatever it is, a copy will succeed, or say what is wrong
                return False
            try:
                os.replace(temporary, self.directory / name)
            except FileNotFoundError:
                # Nothing but a lock could have told another process, at just this moment, not to sweep it away; and a
                # lock would be the source's too, and be lost as soon as anybody here closed that.
                continue
            finally:
                with suppress(OSError):
                    os.unlink(temporary)
            return True
        return False

    def _copy(self, source: str, name: str) -> None:
        try:
            with self.open(source) as old, self.create(name, old.nbytes) as new:
                for offset in range(0, old.nbytes, _COPY_NBYTES):
                    new.write(old.read(offset, min(_COPY_NBYTES, old.nbytes - offset)))
                new.commit()
        except (ReadError, DamagedCheckpointError, NotACheckpointError) as error:
            failure = SaveError(
                self.where(name),
                found=f"{source} with {error.found}",
                expected="a file that can be copied",
                remedy=error.remedy,
            )
            failure.errno = getattr(error, "errno", None)
            raise failure from error

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error, a refusal is a `SaveError`."""
        where = self.where(check_name(self.where(), name))
        try:
            os.unlink(where)
        except FileNotFoundError:
            return
        except OSError as error:
            raise save_error(where, error) from error

    def lock(self, name: str) -> Lock | None:
        """Hold the file ``.{name}.lock`` until release or the end of this process; the folder is made if need be."""
        path = self._lock_path(name)
        try:
            _make_folder(self.directory)
            return locks.acquire(path)
        except OSError as error:
            raise save_error(str(path), error) from error

    def holder(self, name: str) -> str:
        """The process that holds the lock, its host, and where it says so."""
        path = self._lock_path(name)
        return f"{locks.holder(path)} ({path.name})"

    def sweep(self, is_mine: Callable[[str], bool]) -> Sequence[str]:
        """Remove what dead processes left: temporary files of final names that are mine, and lock files.

        Where the file system has no locks, a temporary file goes when it has not changed for a day.
        """
        try:
            names = os.listdir(self.directory)
        except OSError:
            return []
        return [name for name in names if self._is_swept(name, is_mine)]

    def _is_swept(self, name: str, is_mine: Callable[[str], bool]) -> bool:
        if name.startswith(".") and name.endswith(LOCK_SUFFIX):
            return locks.remove_abandoned(self.directory / name, is_lock=True)
        unfinished = _TEMPORARY.fullmatch(name)
        return unfinished is not None and is_mine(unfinished["name"]) and locks.remove_abandoned(self.directory / name)

    def _lock_path(self, name: str) -> Path:
        return self.directory / f".{check_name(self.where(), name)}{LOCK_SUFFIX}"


class LocalFile:
    """A regular file, open for reading. The descriptor keeps its content alive when the name is replaced."""

    def __init__(self, where: str, descriptor: int, nbytes: int) -> None:
        self.where = where
        self.nbytes = nbytes
        self._descriptor: int | None = descriptor

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        with suppress(OSError):
            content = os.pread(self._open(), length, offset)
            if len(content) == length:
                return content
        parts = bytearray(length)
        self.readinto(offset, memoryview(parts))
        return bytes(parts)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (flat, format ``B``) from `offset`."""
        descriptor = self._open()
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise DamagedCheckpointError(
                    self.where,
                    found=f"{error.strerror} while reading byte {offset + done}",
                    expected="a readable disk",
                    remedy="Check the disk, and load an earlier checkpoint.",
                ) from error
            if count == 0:
                raise DamagedCheckpointError(
                    self.where,
                    found=f"the end of the file at byte {offset + done}",
                    expected=f"content up to byte {offset + len(buffer)}",
                    remedy="The file was cut short; load an earlier checkpoint.",
                )
            done += count

    def map(self) -> memoryview:
        """A private map of the file: pages are copied when they are written to."""
        try:
            return memoryview(mmap.mmap(self._open(), self.nbytes, access=mmap.ACCESS_COPY))
        except (OSError, ValueError) as error:  # a file that is shorter by now is a ValueError of mmap's
            raise ReadError(
                self.where,
                found=f"a file that cannot be mapped ({error})",
                expected="a file system with maps, and a file that is as long as it was",
                remedy="Load it without mmap=True.",
            ) from error

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self.where}: the file is closed")
        return self._descriptor

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        # A copied descriptor would be closed twice, the second time as somebody else's.
        raise TypeError(f"{self.where}: an open file cannot be copied or pickled")


class NewLocalFile:
    """A temporary sibling of the file in the making, held by this process."""

    def __init__(self, directory: Path, name: str, nbytes: int, *, is_durable: bool, is_background: bool) -> None:
        self._path = directory / name
        self._nbytes = nbytes
        self._is_durable = is_durable
        self._is_background = is_background
        self._file = self._create(directory, name)
        try:
            self._stream = self._begin()
        except BaseException:
            self._file.release()
            raise

    def _create(self, directory: Path, name: str) -> locks.HeldFile:
        for _ in range(_ATTEMPTS):
            self._temporary = _temporary(directory, name)
            file = locks.create(self._temporary)
            if file is not None:
                return file
        raise OSError(errno.EBUSY, f"{_ATTEMPTS} new files that vanished at once")

    def _begin(self) -> Stream:
        descriptor = self._file.descriptor
        if self._nbytes >= RESERVE_NBYTES:
            system.reserve(descriptor, self._nbytes)
        if self._is_durable and self._nbytes >= DIRECT_NBYTES:
            with suppress(OSError):  # many file systems have no direct writes
                bypass(descriptor, is_on=True)
                try:
                    return PastCache(descriptor, is_in_place=self._is_background)
                except OSError:  # no memory for its buffers
                    bypass(descriptor, is_on=False)
        return ThroughCache(descriptor, is_early=self._is_durable)

    def write(self, content: memoryview | bytes) -> None:
        """Append `content`; raises `SaveError` where the system refuses it."""
        assert self._file.is_held, "write after commit or discard"
        try:
            self._stream.write(memoryview(content))
        except OSError as error:
            raise save_error(str(self._path), error) from error

    def commit(self) -> Stat:
        """Fsync, rename over the final name, fsync the folder; after it the file survives a power cut."""
        assert self._file.is_held, "commit after commit or discard"
        try:
            if self._stream.finish() < self._nbytes:
                os.ftruncate(self._file.descriptor, self._stream.finish())  # what was reserved and not used
            if self._is_durable:
                os.fsync(self._file.descriptor)
            status = os.fstat(self._file.descriptor)
            os.replace(self._temporary, self._path)
            if self._is_durable:
                _sync_folder(self._path.parent)
        except OSError as error:
            self.discard()
            raise save_error(str(self._path), error) from error
        self._file.close()
        return Stat(self._path.name, status.st_size, status.st_mtime)

    def discard(self) -> None:
        """Remove the temporary file, if it is still there."""
        self._stream.abandon()
        self._file.release()

    def __enter__(self) -> NewLocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def _temporary(directory: Path, name: str) -> Path:
    # The owner is for people to read; the random token lets no two writers share a name.
    return directory / f".{name}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"


def _is_same_file(first: str, second: str) -> bool:
    try:
        return os.path.samestat(os.lstat(first), os.lstat(second))
    except FileNotFoundError:
        return False


def _check_room(directory: Path, where: str, nbytes: int) -> None:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    # Some network and pseudo file systems report no size at all; they are asked by writing.
    if status.f_blocks and free < nbytes:
        raise save_error(where, OSError(errno.ENOSPC, f"{free:,} bytes free, {nbytes:,} needed"))


def _make_folder(directory: Path, *, is_durable: bool = True) -> None:
    if directory.is_dir():
        return
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    # A new folder is a name too: without this, a power cut takes it away with all that is in it.
    for path in missing if is_durable else ():
        _sync_folder(path.parent)


def _sync_folder(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_error(where: str, error: OSError) -> ReadError:
    is_full = error.errno in (errno.EMFILE, errno.ENFILE)
    failure = ReadError(
        where,
        found=error.strerror or str(error),
        expected="a file that this user may open",
        remedy="Close what load_checkpoint returned when it is done with." if is_full else "Check the file's rights.",
    )
    failure.errno = error.errno
    return failure
