"""The seam between the kinds of files and those who read them: an index, contents on demand, each checked. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol

from milepost.format.spec import Entry, Index


class OpenFile(Protocol):
    """An open file of named arrays, of whatever kind."""

    @property
    def where(self) -> str:
        """The file's place in words, for messages."""

    @property
    def container(self) -> str:
        """What kind of file it is, in words: ``milepost ckpt``, ``mindspore ckpt, AES-GCM``, ``torch zip``, ..."""

    @property
    def index(self) -> Index:
        """What the file holds."""

    def entry(self, name: str) -> Entry:
        """The entry that holds the content of `name`, also where `name` is an alias."""

    def read(self, name: str) -> bytearray:
        """Return the content of `name`, checked where the file has checksums."""

    def read_into(self, places: Iterable[tuple[str, memoryview]]) -> None:
        """Fill buffers (flat, format ``B``, of the entry's size) with the contents of names, checked likewise."""

    def view(self, name: str, alignment: int) -> memoryview | None:
        """Return the content of `name` in a copy-on-write map of the file, checked likewise, if it lies there as one.

        Args:
            name: Of an entry or an alias.
            alignment: What the content's place must be a multiple of.
        """

    def check(self, names: Iterable[str]) -> None:
        """Check the contents of names without keeping them."""

    def verify(self, on_checked: Callable[[int], object] = ...) -> None:
        """Check every byte of the file, as far as the file tells what it should be; tell of the bytes of each entry."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> OpenFile: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
