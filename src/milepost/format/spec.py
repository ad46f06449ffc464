"""What a checkpoint file holds, as values: the words the format room shares with its callers. No bytes here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from milepost.format.checksum import Checksum
from milepost.format.dtypes import DTYPES

KINDS = ("parameter", "buffer", "extra", "optimizer", "random", "appended", "unknown")
"""What an entry is to the training: a network's parameter or buffer, what stands beside them in a module's
state, optimizer state, random state, a value the user appended, or (in files that record no kind) unknown."""


# A file has many of the next three, and a named tuple is made in half the time of a frozen dataclass.
class ArraySpec(NamedTuple):
    """A named array without its bytes.

    Args:
        name: The entry's name, e.g. ``layer1.0.conv1.weight``.
        dtype: A canonical name of `milepost.format.dtypes.DTYPES`, e.g. ``float32``; ``str`` for a text.
        shape: The dimensions; ``()`` is a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the content in C order, little-endian (not defined for texts, whose length is their own)."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def is_filled_by(self, nbytes: int) -> bool:
        """Whether `nbytes` bytes can be this array's content; a text has any number of code points but none."""
        if self.dtype == "str":
            return self.shape == () and nbytes > 0 and nbytes % DTYPES["str"].itemsize == 0
        # Without elements the product says nothing of the other dimensions, yet strides over them must exist.
        return nbytes == self.nbytes and (nbytes > 0 or math.prod(length or 1 for length in self.shape) < 2**59)


class Extent(NamedTuple):
    """A run of content bytes in the file: `offset` and `length` in bytes."""

    offset: int
    length: int


class Entry(NamedTuple):
    """An array's place in a file; its content is the concatenation of its extents.

    Args:
        spec: Name, dtype and shape.
        kind: One of `KINDS`.
        extents: Where the content stands, in order.
        checksum: XXH3-64 of the content, or None in files that record none.
    """

    spec: ArraySpec
    kind: str
    extents: tuple[Extent, ...]
    checksum: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of the content."""
        extents = self.extents
        return extents[0].length if len(extents) == 1 else sum([extent.length for extent in extents])


@dataclass(frozen=True, slots=True)
class Index:
    """Everything about a checkpoint file but the contents.

    Args:
        entries: Name to entry, in file order.
        aliases: Name to the name of the entry that holds its content (tied weights are stored once).
        metadata: The JSON object the writer stored; empty for files without one.
        nbytes: The file's size in bytes.
        profile: Version of Milepost's profile of the format, or None for a file that does not follow it.
        container: What kind of file it is, in words: ``milepost ckpt``, ``mindspore ckpt``, ``safetensors``.
    """

    entries: Mapping[str, Entry]
    aliases: Mapping[str, str]
    metadata: Mapping[str, Any]
    nbytes: int
    profile: int | None
    container: str


@dataclass(slots=True)
class Array:
    """An array to be written: `content` is called once, when its turn has come, so that a writer holds one at a time.

    Args:
        spec: Name, dtype and shape.
        kind: One of `KINDS`.
        content: Gives the bytes in C order, little-endian, as a flat memoryview of format ``B``.
        release: Called once, when a writer has taken the bytes in or given the save up: from then on they may change.
        checksum: XXH3-64 of the content, where it is known before the content is asked for.
    """

    spec: ArraySpec
    kind: str
    content: Callable[[], memoryview]
    release: Callable[[], None] | None = None
    checksum: int | None = None


class Source(Protocol):
    """What a format reads from: a sized thing that answers positioned reads."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`; the caller has checked that they exist."""


class Layout(Protocol):
    """A file laid out: its size is known, its bytes come when they are asked for."""

    @property
    def nbytes(self) -> int:
        """The exact size of the file in bytes."""

    def chunks(self, new_checksum: Callable[[], Checksum] = Checksum) -> Iterator[bytes | memoryview]:
        """Stream the file, once; a chunk is taken in when the next is asked for.

        Args:
            new_checksum: Makes the checksum of a large content; it may be at work while the content is written.
        """

    def release(self) -> None:
        """Release the arrays that are not yet: the save is done, or given up."""


class Filter(Protocol):
    """What goes around a file: makes of its bytes, as they come, other bytes. One filter is for one file."""

    def nbytes_of(self, nbytes: int) -> int:
        """How many bytes `nbytes` become."""

    def take(self, chunk: memoryview | bytes) -> Iterator[memoryview | bytes]:
        """Take in the next bytes, and give what is ready; exhausted before the next call."""

    def finish(self) -> Iterator[bytes]:
        """Give the rest."""


class Filtered:
    """A file laid out, with what goes around it."""

    def __init__(self, layout: Layout, around: Filter) -> None:
        self._layout = layout
        self._around = around

    @property
    def nbytes(self) -> int:
        """The exact size of the file in bytes."""
        return self._around.nbytes_of(self._layout.nbytes)

    def chunks(self, new_checksum: Callable[[], Checksum] = Checksum) -> Iterator[bytes | memoryview]:
        """Stream the file, once."""
        for chunk in self._layout.chunks(new_checksum):
            yield from self._around.take(chunk)
        yield from self._around.finish()

    def release(self) -> None:
        """Release the arrays."""
        self._layout.release()
