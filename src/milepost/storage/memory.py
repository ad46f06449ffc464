"""A folder in memory: the same verbs over a dict, for tests and planned faults. Nothing here outlives the process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError
from milepost.storage.base import Lock, NewFile, Stat, StoredFile
from milepost.storage.local import save_error
from milepost.storage.names import check_name


class MemoryStorage:
    """Files in a dict.

    Args:
        fault: Called with a verb (``create``, ``write``, ``commit``, ``link``, ``remove``) and a name before it is
            done; an `OSError` that it raises stands for the system's refusal.
    """

    def __init__(self, fault: Callable[[str, str], None] | None = None) -> None:
        self._files: dict[str, tuple[bytes, float]] = {}
        self._locks: dict[str, MemoryLock] = {}
        self._fault = fault

    def where(self, name: str = "") -> str:
        """``memory:`` and the name."""
        return f"memory:{name}"

    def list(self) -> list[Stat]:
        """The committed files."""
        return [Stat(name, len(content), modified) for name, (content, modified) in self._files.items()]

    def open(self, name: str) -> StoredFile:
        """Open a committed file."""
        check_name(self.where(), name)
        if name not in self._files:
            raise CheckpointNotFoundError(
                self.where(name), found="no such file", expected="a checkpoint", remedy="Save one first."
            )
        return MemoryFile(self.where(name), self._files[name][0])

    def create(
        self,
        name: str,
        nbytes: int,  # noqa: ARG002 (it is memory)
        *,
        is_durable: bool = True,  # noqa: ARG002
        is_background: bool = False,  # noqa: ARG002
    ) -> NewFile:
        """Begin a file."""
        check_name(self.where(), name)
        self.meet_fault("create", name)
        return NewMemoryFile(self, name)

    def link(self, source: str, name: str) -> None:
        """Put a file under a second name."""
        check_name(self.where(), name)
        self.open(source)
        self.meet_fault("link", name)
        self._files[name] = self._files[source]

    def remove(self, name: str) -> None:
        """Remove a file."""
        check_name(self.where(), name)
        self.meet_fault("remove", name)
        self._files.pop(name, None)

    def lock(self, name: str) -> Lock | None:
        """Claim a name within this storage."""
        lock = MemoryLock(self._locks, check_name(self.where(), name))
        return lock if self._locks.setdefault(name, lock) is lock else None

    def holder(self, name: str) -> str:  # noqa: ARG002 (nobody else can)
        """This process."""
        return "this process"

    def sweep(self, is_mine: Callable[[str], bool]) -> Sequence[str]:  # noqa: ARG002 (the dead leave nothing)
        """Nothing to remove."""
        return []

    def meet_fault(self, verb: str, name: str) -> None:
        """Let the planned fault happen, as a `SaveError`."""
        if self._fault is not None:
            try:
                self._fault(verb, name)
            except OSError as error:
                raise save_error(self.where(name), error) from error

    def put(self, name: str, content: bytes) -> Stat:
        """Store `content` under `name` in one step."""
        self._files[name] = content, time.time()
        return Stat(name, len(content), self._files[name][1])


class MemoryLock:
    """A claimed name."""

    def __init__(self, claimed: dict[str, MemoryLock], name: str) -> None:
        self._claimed = claimed
        self._name = name

    def release(self) -> None:
        """Give the name back."""
        if self._claimed.get(self._name) is self:
            del self._claimed[self._name]

    def __enter__(self) -> MemoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class MemoryFile:
    """Bytes, open for reading."""

    def __init__(self, where: str, content: bytes) -> None:
        self.where = where
        self.nbytes = len(content)
        self._content = content

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        if offset + length > self.nbytes:
            raise DamagedCheckpointError(
                self.where,
                found=f"the end of the file at byte {self.nbytes}",
                expected=f"content up to byte {offset + length}",
                remedy="The file was cut short; load an earlier checkpoint.",
            )
        return self._content[offset : offset + length]

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        buffer[:] = self.read(offset, len(buffer))

    def map(self) -> memoryview:
        """A copy, which is the caller's own as well."""
        return memoryview(bytearray(self._content))

    def close(self) -> None:
        """Nothing to let go of."""

    def __enter__(self) -> MemoryFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NewMemoryFile:
    """A file in the making."""

    def __init__(self, storage: MemoryStorage, name: str) -> None:
        self._storage = storage
        self._name = name
        self._content = bytearray()

    def write(self, content: memoryview | bytes) -> None:
        """Append `content`."""
        self._storage.meet_fault("write", self._name)
        self._content += content

    def commit(self) -> Stat:
        """Give the file its name."""
        self._storage.meet_fault("commit", self._name)
        return self._storage.put(self._name, bytes(self._content))

    def discard(self) -> None:
        """Drop the content."""
        self._content = bytearray()

    def __enter__(self) -> NewMemoryFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()
