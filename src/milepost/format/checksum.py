"""What shows that a content is as it was saved. Where checksums stand is not known here."""

from __future__ import annotations

import xxhash


class Checksum:
    """XXH3-64 of a content that comes in blocks.

    Source: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md, XXH3 with seed 0.

    >>> checksum = Checksum()
    >>> checksum.update(b"mile")
    >>> checksum.update(b"post")
    >>> checksum.value() == Checksum.of(b"milepost")
    True
    """

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_64()

    @staticmethod
    def of(content: bytes | bytearray | memoryview) -> int:
        """Return the checksum of a content that is at hand as a whole."""
        return xxhash.xxh3_64_intdigest(content)

    def update(self, block: bytes | bytearray | memoryview) -> None:
        """Take in the next block."""
        self._hash.update(block)

    def value(self) -> int:
        """Return the checksum of all blocks so far."""
        return self._hash.intdigest()
