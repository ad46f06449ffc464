"""The seam between Milepost and a place for files: a handful of verbs. What the files hold is not known here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stat:
    """A file that exists: its `name` in the folder, size in bytes, and time of modification in Unix seconds."""

    name: str
    nbytes: int
    modified: float


class StoredFile(Protocol):
    """A committed file, open for reading; stays what it was even if it is replaced or removed meanwhile."""

    @property
    def where(self) -> str:
        """The file's place in words, for messages."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`, or raise `DamagedCheckpointError` if the file is shorter."""

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`, or raise `DamagedCheckpointError` if the file is shorter."""

    def map(self) -> memoryview:
        """Return all of the file as memory that is read when it is looked at, and is the caller's own to write to.

        It lives as long as somebody has a view of it, whatever happens to the file's name. Only who cuts the file
        itself short can take it away: then looking at it ends the process (SIGBUS), as for any map.
        """

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> StoredFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class NewFile(Protocol):
    """A file in the making, invisible under its name until `commit`; leaving the block without one discards it."""

    def write(self, content: memoryview | bytes) -> None:
        """Append `content`; once this returns, the caller may change it."""

    def commit(self) -> Stat:
        """Make the file durable, if it is to be, and give it its name in one step, replacing what had that name."""

    def discard(self) -> None:
        """Drop the file; what had its name is untouched. Harmless after `commit`."""

    def __enter__(self) -> NewFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Lock(Protocol):
    """A name that is this process's own, until `release` or the end of the process, however that comes."""

    def release(self) -> None:
        """Give the name back; harmless a second time, and without effect in a forked child."""

    def __enter__(self) -> Lock: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Storage(Protocol):
    """A folder of files. Names are plain: a name with a separator, or one that leaves the folder, is refused."""

    def where(self, name: str = "") -> str:
        """The place of `name` (or of the folder) in words, for messages."""

    def list(self) -> list[Stat]:
        """The committed files, in no order; an absent folder has none."""

    def open(self, name: str) -> StoredFile:
        """Open a committed file, or raise `CheckpointNotFoundError`; anything but a regular file is refused."""

    def create(self, name: str, nbytes: int, *, is_durable: bool = True, is_background: bool = False) -> NewFile:
        """Begin a file of at most `nbytes` bytes that will be called `name`; raise `SaveError` where it cannot be.

        Without `is_durable`, a commit gives the file its name in one step too, but a power cut may still take it away.
        With `is_background`, nobody waits for the file, and the processor is needed elsewhere: what spares its time
        is preferred to what is soon done.
        """

    def link(self, source: str, name: str) -> None:
        """Give the committed file `source` a second name, durable and in one step, replacing what had that name.

        From then on each name is its own: replacing or removing one leaves the other as it is. Where the place has no
        second names, the content is copied.

        Raises:
            CheckpointNotFoundError: There is no `source`.
            SaveError: The place refuses; what had the name is untouched.
        """

    def remove(self, name: str) -> None:
        """Remove a committed file; one that is gone already is no error."""

    def lock(self, name: str) -> Lock | None:
        """Claim `name`, or return None if a living process (this one too) has it; `SaveError` where it cannot be."""

    def holder(self, name: str) -> str:
        """Who has claimed `name`, in words, for messages."""

    def sweep(self, is_mine: Callable[[str], bool]) -> Sequence[str]:
        """Remove what dead processes left unfinished, never what a living one works on, and return what went.

        What cannot be removed stays, and is no error.

        Args:
            is_mine: Whether an unfinished file that would have been called so may be removed.
        """
