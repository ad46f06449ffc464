"""What is written: exact bytes, alignment, streaming, and what is refused."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest

from milepost.errors import MilepostError, SettingError, UnsupportedStateError
from milepost.format import ckpt_index, ckpt_plan, schema
from milepost.format.checksum import Checksum
from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec
from milepost.format.text import decode_text, encode_text

SPECIFICATION = Path(__file__).parents[2] / "docs" / "format.md"


def example() -> bytes:
    """The bytes of the specification's example."""
    lines = re.search(r"```hex\n(.*?)```", SPECIFICATION.read_text(), re.S)[1].splitlines()
    return bytes.fromhex("".join(re.match(r" *((?:[0-9a-f]{2})+ ?)+(?=  |$)", line)[0] for line in lines))


def test_the_specifications_example_is_what_is_written(array, write, read):
    """The page, the writer and the reader agree on every byte."""
    pair = array("w", "float32", [2], bytes.fromhex("0000803f00000040"))
    assert write([pair], {"epoch": 1}) == example()
    assert read(example()).metadata == {"epoch": 1}


@pytest.mark.parametrize("slice_nbytes", [30, 64, 300, 1 << 20])
def test_every_content_starts_at_a_multiple_of_64(array, write, read, slice_nbytes):
    """Whatever the lengths before it, so that a mapped file's tensors are aligned."""
    arrays = [array("n" * nbytes, "uint8", [nbytes], bytes(nbytes)) for nbytes in [*range(1, 140), 5000, 16381]]
    for entry in read(write(arrays, slice_nbytes=slice_nbytes)).entries.values():
        assert all(extent.offset % 64 == 0 for extent in entry.extents)


@pytest.mark.parametrize("slice_nbytes", [4096, 5000, 1 << 20])
def test_large_contents_start_64_bytes_behind_a_multiple_of_512(array, write, read, monkeypatch, slice_nbytes):
    """As they lie in memory, so that a disk can take them from there; a slice that is large by itself does too."""
    monkeypatch.setattr(schema, "PLACED_NBYTES", 4096)
    arrays = [array("n" * nbytes, "uint8", [nbytes], bytes(nbytes)) for nbytes in range(4000, 4300, 7)]
    arrays.append(array("many slices", "uint8", [70_000], bytes(70_000)))
    content = write(arrays, slice_nbytes=slice_nbytes)
    extents = [extent for entry in read(content).entries.values() for extent in entry.extents]
    assert all(extent.offset % 512 == 64 for extent in extents if extent.length >= 4096)
    assert {extent.offset % 512 for extent in extents if extent.length < 4096} > {64}
    assert sum(extent.length >= 4096 for extent in extents) > 10


@pytest.mark.parametrize("slice_nbytes", [5000, 1 << 20])
def test_a_file_whose_large_contents_start_at_any_multiple_of_64_is_whole(
    array, write, read, source_of, monkeypatch, slice_nbytes
):
    """The first writers of the profile placed none; every byte of such a file is checked all the same."""
    arrays = [array(f"w{nbytes}", "uint8", [nbytes], bytes(nbytes)) for nbytes in (4096, 9000, 20_000)]
    content = write(arrays, slice_nbytes=slice_nbytes)
    monkeypatch.setattr(schema, "PLACED_NBYTES", 4096)
    assert write(arrays, slice_nbytes=slice_nbytes) != content, "a writer of today places them"
    index = read(content)
    ckpt_index.verify_framing(source_of(content), index, "w.ckpt")
    padding = next(iter(index.entries.values())).extents[0].offset - 10
    for place in (padding, padding - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(MilepostError):
            ckpt_index.verify_framing(source_of(bytes(changed)), index, "w.ckpt")


def test_slices_are_cut_between_elements(array, write, read):
    """Readers that join nothing but whole elements exist."""
    entry = read(write([array("w", "complex128", [5], bytes(80))], slice_nbytes=40)).entries["w"]
    assert [extent.length for extent in entry.extents] == [32, 32, 16]


def test_the_size_is_known_before_any_content_is_asked_for():
    """A storage reserves room before the first byte comes."""

    def content():
        raise AssertionError("asked too early")

    planned = plan([Array(ArraySpec("w", "float64", (1000, 1000)), "parameter", content)], {})
    assert planned.nbytes > 8_000_000


def test_each_content_is_asked_for_once_and_in_turn(array):
    """So that a writer holds one at a time."""
    asked = []

    def asking(name, nbytes):
        def content():
            asked.append(name)
            return memoryview(bytes(nbytes))

        return Array(ArraySpec(name, "uint8", (nbytes,)), "buffer", content)

    arrays = [asking("a", 10), asking("b", 1 << 20), asking("c", 0), asking("d", 1 << 20)]
    planned = plan(arrays, {})
    assert asked == []
    list(planned.chunks())
    assert asked == ["a", "b", "c", "d"]


@pytest.mark.parametrize("mib", [4, 32])
def test_memory_for_a_save_is_one_content(mib):
    """Eight arrays need no more than one of them and a few blocks, since each chunk is let go of."""
    nbytes = mib << 20
    spec = [ArraySpec(f"w{number}", "uint8", (nbytes,)) for number in range(8)]
    planned = plan([Array(each, "parameter", lambda: memoryview(bytes(nbytes))) for each in spec], {})
    tracemalloc.start()
    try:
        for chunk in planned.chunks():
            assert len(chunk) <= ckpt_plan.BLOCK_NBYTES
        assert tracemalloc.get_traced_memory()[1] < nbytes + (2 << 20)
    finally:
        tracemalloc.stop()


def test_many_small_entries_come_in_few_chunks(array, source_of):
    """A write for each of 20,000 entries would cost four times one write of all, and so would a read."""
    content = bytes(64)
    planned = plan([array(f"layer.{number}.weight", "float32", [4, 4], content) for number in range(20_000)], {})
    chunks = list(planned.chunks())
    assert len(chunks) < 10
    source = source_of(b"".join(chunks))
    assert len(ckpt_index.read_index(source, "f").entries) == 20_000
    assert source.reads == 4


def test_chunks_can_be_streamed_twice(array):
    """A save that failed can be tried again."""
    planned = plan([array("w", "uint8", [3], b"abc")], {})
    assert list(planned.chunks()) == list(planned.chunks())


@pytest.mark.parametrize(
    "content", [b"", bytes(7), bytes(9), memoryview(bytes(8)).cast("d"), memoryview(bytes(8)).cast("B", (2, 4))]
)
def test_a_content_of_another_length_is_refused(array, content):
    """What was laid out cannot change: everything behind it would be elsewhere."""
    planned = plan([array("layer.w", "float32", [2], content)], {})
    with pytest.raises(UnsupportedStateError, match=r"layer\.w"):
        list(planned.chunks())


@pytest.mark.parametrize(
    ("names", "aliases"),
    [
        ([""], {}),
        (["half \ud800"], {}),
        (["w", "w"], {}),
        (["w"], {"w": "w"}),
        (["w"], {"": "w"}),
        (["w"], {"half \ud800": "w"}),
        (["w"], {"v": "nothing"}),
        (["w"], {"v": "w", "u": "v"}),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(array, names, aliases):
    """Empty, not Unicode, twice, or an alias for nothing."""
    with pytest.raises(SettingError):
        plan([array(name, "uint8", [1], b"x") for name in names], {}, aliases)


@pytest.mark.parametrize(
    ("dtype", "shape", "kind", "content"),
    [
        ("float12", (1,), "parameter", b"x"),
        ("uint8", (1,), "weight", b"x"),
        ("uint8", (-1,), "parameter", b"x"),
        ("uint8", (2**63, 0), "parameter", b""),
        ("uint8", (1,) * 65, "parameter", b"x"),
        ("str", (1,), "appended", b"x\0\0\0"),
        ("str", (), "appended", b""),
        ("str", (), "appended", b"abc"),
    ],
)
def test_arrays_that_the_format_does_not_have_are_refused(array, dtype, shape, kind, content):
    """At once, not when a reader meets them."""
    with pytest.raises(SettingError, match="layer"):
        plan([array("layer", dtype, shape, content, kind)], {})


def test_a_file_never_ends_like_one_with_mindspores_checksum(array, write):
    """MindSpore cuts 17 bytes off a file that has its mark there, asked to or not."""
    assert write([array("w", "uint8", [7], b"crc_num")], {"crc_num": "crc_num"})[-17:-10].endswith(b"M")


@pytest.mark.parametrize("text", ["", "a", "gelernt: 你好 😀", "a\0b", "x" * 1000])
def test_texts_come_back(text):
    """Also the empty one, which is never written as nothing."""
    assert len(encode_text(text)) == 4 * max(1, len(text))
    assert decode_text(encode_text(text)) == text


@pytest.mark.parametrize("text", ["\0", "a\0", "\ud800"])
def test_texts_that_would_not_come_back_are_refused(text):
    """MindSpore drops NULs at the end; half a surrogate pair has no encoding."""
    with pytest.raises(UnsupportedStateError):
        encode_text(text)


@pytest.mark.parametrize("content", [b"a", b"\xff\xff\xff\xff", b"\x00\xd8\x00\x00"])
def test_contents_that_are_no_text_are_refused(content):
    """Too short, beyond Unicode, half a surrogate pair."""
    with pytest.raises(MilepostError):
        decode_text(content)


def test_the_checksum_is_xxh3_64():
    """The reference implementation's values for no byte and for one zero byte."""
    assert (Checksum.of(b""), Checksum.of(b"\0")) == (0x2D06800538D394C2, 0xC44BDFF4074EECDB)
