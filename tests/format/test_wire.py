"""Varints and fields at their edges; whole messages are judged with the files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.errors import DamagedCheckpointError
from milepost.format import wire


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_varints_come_back(source_of, number):
    """And are as long as announced."""
    encoded = wire.encode_varint(number)
    assert wire.varint_nbytes(number) == len(encoded) <= 10
    window = wire.Window(source_of(encoded + b"\x7f"), "f", len(encoded) + 1)
    assert window.varint(0, len(encoded)) == (number, len(encoded))


@pytest.mark.parametrize(
    ("number", "encoded"),
    [(0, "00"), (1, "01"), (127, "7f"), (128, "8001"), (300, "ac02"), (2**64 - 1, "ff" * 9 + "01")],
)
def test_varints_are_protobufs(number, encoded):
    """Low bits first, the high bit says that more follow."""
    assert wire.encode_varint(number).hex() == encoded


def test_longer_varints_than_need_be_are_numbers_too(source_of):
    """Protobuf's parsers take them, so files may hold them."""
    assert wire.Window(source_of(b"\x85\x80\x00"), "f", 3).varint(0, 3) == (5, 3)


@pytest.mark.parametrize("encoded", [b"", b"\x80", b"\xff" * 9, b"\xff" * 10 + b"\x00", b"\xff" * 9 + b"\x02"])
def test_varints_that_do_not_end_in_time_are_refused(source_of, encoded):
    """By the end of the message, by ten bytes, by 64 bits."""
    with pytest.raises(DamagedCheckpointError):
        wire.Window(source_of(encoded), "f", len(encoded)).varint(0, len(encoded))


def test_fields_of_every_wire_type_are_walked(source_of):
    """Unknown ones too: their contents are skipped, not read."""
    content = wire.varint_field(1, 300) + b"\x11" + bytes(8) + wire.bytes_field(2000, b"abc") + b"\x1d" + bytes(4)
    found = list(wire.fields(wire.Window(source_of(content), "f", len(content)), 0, len(content)))
    assert [(field.number, field.wire_type, field.value, field.length) for field in found] == [
        (1, wire.VARINT, 300, 2),
        (2, wire.FIXED64, 0, 8),
        (2000, wire.BYTES, 0, 3),
        (3, wire.FIXED32, 0, 4),
    ]
    assert found[-1].end == len(content)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99_990), st.integers(0, 10)), max_size=10))
def test_a_window_shows_what_is_there(source_of, places):
    """Wherever it is moved."""
    content = bytes(number % 251 for number in range(100_000))
    window = wire.Window(source_of(content), "f", len(content))
    for offset, length in places:
        assert window.read(offset, length) == content[offset : offset + length]
