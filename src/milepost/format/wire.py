"""Protobuf's wire format: varints and fields, contents skipped. Which messages there are is not known here.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from milepost.errors import DamagedCheckpointError
from milepost.format.spec import Source

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""The wire types that exist here. The two others, 3 and 4, open and close a group: long deprecated, and refused,
because nothing says how deep groups nest."""

FIELD_LIMIT = 2**31
"""Every length-delimited field is shorter than this, or protobuf's own parsers refuse it."""

_VARINT_NBYTES = 10
_SMALLEST_WINDOW, _LARGEST_WINDOW = 4 << 10, 1 << 20
_FIXED_NBYTES = {FIXED64: 8, FIXED32: 4}


_ONE_BYTE = [bytes([value]) for value in range(0x80)]


def encode_varint(value: int) -> bytes:
    """Return `value` (0 to 2**64 - 1) as a varint of minimal length.

    >>> encode_varint(300).hex()
    'ac02'
    """
    if value < 0x80:
        return _ONE_BYTE[value]  # nearly every one, and a file may have millions
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def varint_nbytes(value: int) -> int:
    """Return the length of `encode_varint(value)`."""
    return max(1, (value.bit_length() + 6) // 7)


def varint_field(number: int, value: int) -> bytes:
    """Return a whole varint field."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)


@lru_cache(maxsize=4096)  # a model has many tensors of one size
def bytes_head(number: int, nbytes: int) -> bytes:
    """Return what stands before the `nbytes` bytes of a length-delimited field."""
    return encode_varint(number << 3 | BYTES) + encode_varint(nbytes)


def bytes_field(number: int, content: bytes) -> bytes:
    """Return a whole length-delimited field."""
    return bytes_head(number, len(content)) + content


def damaged(where: str, offset: int, found: str, expected: str) -> DamagedCheckpointError:
    """The error for bytes at `offset` that cannot be."""
    return DamagedCheckpointError(
        f"{where}, byte {offset}",
        found=found,
        expected=expected,
        remedy="The file was changed or cut short after it was saved; load an earlier checkpoint.",
    )


class Window:
    """The bytes of a source around the place that is looked at.

    Small reads near each other become one, and a jump over a large content reads none of it: the window grows while
    the reads stay within its length, and starts small after a jump.

    Args:
        source: What is read.
        where: The source's place in words, for messages.
        end: The first byte behind what may be read.
    """

    def __init__(self, source: Source, where: str, end: int) -> None:
        self.where = where
        self.end = end
        self._source = source
        self._start = 0
        self._bytes = b""
        self._nbytes = _SMALLEST_WINDOW

    def read(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`; the caller has checked that they end before `end`."""
        begin = offset - self._start
        if begin < 0 or begin + length > len(self._bytes):
            self._move(offset, length)
            begin = 0
        return self._bytes[begin : begin + length]

    def _move(self, offset: int, length: int) -> None:
        is_near = self._start <= offset <= self._start + len(self._bytes) + self._nbytes
        self._nbytes = min(2 * self._nbytes, _LARGEST_WINDOW) if is_near else _SMALLEST_WINDOW
        nbytes = min(max(length, self._nbytes), self.end - offset)
        self._bytes = self._source.read(offset, nbytes)
        self._start = offset

    def varint(self, offset: int, end: int) -> tuple[int, int]:
        """Return the varint at `offset`, and where it ends, which is not behind `end`."""
        begin = offset - self._start
        if offset < end and 0 <= begin < len(self._bytes) and self._bytes[begin] < 0x80:
            return self._bytes[begin], offset + 1  # nearly every one, and a file may have millions
        value = 0
        for position, byte in enumerate(self.read(offset, min(_VARINT_NBYTES, end - offset))):
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                if value >= 2**64:
                    break
                return value, offset + position + 1
        raise damaged(self.where, offset, "a number that does not end in time", "a varint of at most 64 bits")


class Field(NamedTuple):
    """A field of a message, its content still unread.

    Args:
        number: The field's number.
        wire_type: One of the wire types above.
        value: The value of a `VARINT` field; 0 for the others.
        offset: Where the content begins.
        length: Bytes of the content.
    """

    number: int
    wire_type: int
    value: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind the field."""
        return self.offset + self.length


def fields(window: Window, start: int, end: int) -> Iterator[Field]:
    """Walk the fields of the message from `start` to `end`, reading no content.

    Raises:
        DamagedCheckpointError: A field does not end where the message does, or is none.
    """
    offset = start
    while offset < end:
        field = _field(window, offset, end)
        if field.end > end:
            raise damaged(
                window.where, offset, f"a field of {field.length} bytes", f"at most the {end - field.offset} bytes left"
            )
        yield field
        offset = field.end


def _field(window: Window, offset: int, end: int) -> Field:
    key, begin = window.varint(offset, end)
    number, wire_type = key >> 3, key & 7
    # MindSpore takes a field whose key is longer than need be for an unknown one and drops it without a word.
    if not 0 < number < 2**29 or begin - offset != varint_nbytes(key):
        raise damaged(window.where, offset, f"the field key {key:#x}", "the key of a protobuf field")
    if wire_type == VARINT:
        value, after = window.varint(begin, end)
        return Field(number, wire_type, value, begin, after - begin)
    if wire_type == BYTES:
        length, begin = window.varint(begin, end)
        return Field(number, wire_type, 0, begin, length)
    if wire_type in _FIXED_NBYTES:
        return Field(number, wire_type, 0, begin, _FIXED_NBYTES[wire_type])
    raise damaged(window.where, offset, f"a field of wire type {wire_type}", "a number or a run of bytes, not a group")
