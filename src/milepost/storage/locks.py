"""Which files this process holds, told to other processes by locks. What the files are for is not known here.

The locks are POSIX record locks (``fcntl``). They end with the process however it ends, and a forked child does not
inherit them: with ``flock``, the workers that a killed training leaves behind would keep its locks alive. Their two
traps are met here, by knowing every file that is held: a process never conflicts with itself, and it loses its lock
when it closes *any* descriptor of the file, so a held file is never opened a second time.

A file may be removed only by who holds it. So whoever has just locked one looks whether its name still leads to it.

Hosts that share a folder need locks that reach across hosts: NFS has them, unless it is mounted with ``nolock`` or
``local_lock``. Where the file system refuses locks altogether (Lustre without ``flock``), a file is held by who
created it, for as long as a process of that number lives on that host, and by nobody else's judgement.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

# Two processes that meet at one file: one of them may only be looking whether it can be swept away.
_ATTEMPTS = 3
_PAUSE_SECONDS = 0.01

# Without locks a file that has not changed for so long is nobody's; writing one moves its time of modification.
_ABANDONED_SECONDS = 24 * 60 * 60

_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OWNER = re.compile(r"milepost: process (?P<pid>[0-9]{1,18}) on (?P<host>[!-~]+)\n")
_MAX_OWNER_NBYTES = 512

_Key = tuple[int, int]


class HeldFile:
    """A file that this process holds, through the only descriptor that it has of it. As a context: until its end."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.descriptor = descriptor
        self._path = path
        self._key = _key(os.fstat(descriptor))
        _held[self._key] = self

    @property
    def is_held(self) -> bool:
        """Whether it is held, by this process: not after the end, and not in a forked child."""
        return _held.get(self._key) is self

    def release(self) -> None:
        """Remove the file, if it still has its name, and let go; without effect where it is not held."""
        self._end(is_removed=True)

    def close(self) -> None:
        """Let go of the file, which stays; without effect where it is not held."""
        self._end(is_removed=False)

    def _end(self, *, is_removed: bool) -> None:
        with _mutex:
            if self.is_held:
                if is_removed:
                    _unlink(self._path, self.descriptor)
                del _held[self._key]
                with suppress(OSError):  # let go of all the same; what matters was fsynced before
                    os.close(self.descriptor)

    def __enter__(self) -> HeldFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: dict[_Key, HeldFile] = {}
# Reentrant, because garbage may be collected in the middle of this module, and release what nobody uses any more.
_mutex = threading.RLock()


def _forget() -> None:
    """What the parent holds, and a mutex that one of its threads may just have had, are not the child's."""
    global _mutex
    _held.clear()
    _mutex = threading.RLock()


os.register_at_fork(after_in_child=_forget)


def acquire(path: Path) -> HeldFile | None:
    """Take the lock file `path`, or return None if it is held. A dead process's is taken over."""
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_SECONDS * bool(attempt))
        with _mutex:
            descriptor = None if _is_held(path) else _open_to_take(path)
            if descriptor is not None:
                _write_owner(descriptor)
                return HeldFile(path, descriptor)
    return None


def create(path: Path) -> HeldFile | None:
    """Create `path` and hold it, or return None if another process swept it away at once: then try another name."""
    with _mutex:
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            if _lock(descriptor) is not False and _leads_to(path, descriptor):
                return HeldFile(path, descriptor)
        except BaseException:
            _unlink(path, descriptor)
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


def remove_abandoned(path: Path, *, is_lock: bool = False) -> bool:
    """Remove `path` if no living process holds it, and return whether it is gone; a lock file only if it is ours."""
    with _mutex:
        try:
            if _is_held(path) or not stat.S_ISREG(os.lstat(path).st_mode):
                return False
            descriptor = os.open(path, _FLAGS)
        except OSError:
            return False
        try:
            is_known = not is_lock or _owner(descriptor) is not None
            return is_known and _is_abandoned(descriptor, is_lock=is_lock) and _unlink(path, descriptor)
        except OSError:
            return False
        finally:
            os.close(descriptor)


def holder(path: Path) -> str:
    """Return who holds the lock file `path`, in words."""
    with _mutex:
        if _is_held(path):
            return "this process"
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return "another process"
        try:
            owner = _owner(descriptor)
        finally:
            os.close(descriptor)
    return f"process {owner[0]} on {owner[1]}" if owner else "another process"


def _is_held(path: Path) -> bool:
    try:
        return _key(os.stat(path, follow_symlinks=False)) in _held
    except FileNotFoundError:
        return False


def _open_to_take(path: Path) -> int | None:
    """Return a descriptor of the lock file that is now this process's, or None if another has it."""
    is_new = True
    try:
        descriptor = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        is_new = False
        try:
            descriptor = os.open(path, _FLAGS)
        except (FileNotFoundError, PermissionError):  # released at this moment, or another user's
            return None
    try:
        is_ours = _lock(descriptor)
        if is_ours is None:
            is_ours = is_new or _is_dead(_owner(descriptor))
        if is_ours and _leads_to(path, descriptor):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _lock(descriptor: int) -> bool | None:
    """Whether the lock is now this process's; None where the file system has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in _WITHOUT_LOCKS:
            return None
        raise
    return True


def _is_abandoned(descriptor: int, *, is_lock: bool) -> bool:
    is_ours = _lock(descriptor)
    if is_ours is None:
        # A lock file does not change while it is held.
        return not is_lock and time.time() - os.fstat(descriptor).st_mtime >= _ABANDONED_SECONDS
    return is_ours


def _is_dead(owner: tuple[int, str] | None) -> bool:
    """Whether a process is known to be dead; one of another host never is."""
    if owner is None or owner[1] != os.uname().nodename:
        return False
    try:
        os.kill(owner[0], 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _write_owner(descriptor: int) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"milepost: process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
    except OSError:  # a full disk; the lock is as good without
        return


def _owner(descriptor: int) -> tuple[int, str] | None:
    try:
        text = os.pread(descriptor, _MAX_OWNER_NBYTES, 0).decode(errors="replace")
    except OSError:
        return None
    match = _OWNER.fullmatch(text)
    return (int(match["pid"]), match["host"]) if match else None


def _unlink(path: Path, descriptor: int) -> bool:
    """Remove `path` if it leads to the descriptor's file; a refusal leaves it to the next sweep."""
    try:
        if _leads_to(path, descriptor):
            os.unlink(path)
            return True
    except OSError:
        pass
    return False


def _leads_to(path: Path, descriptor: int) -> bool:
    try:
        return _key(os.stat(path, follow_symlinks=False)) == _key(os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _key(status: os.stat_result) -> _Key:
    return status.st_dev, status.st_ino
