"""Damaged and hostile files: each gets an error of ours that says what is wrong, quickly, or reads the same."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from milepost.errors import DamagedCheckpointError, MilepostError, NotACheckpointError
from milepost.format import schema, wire
from milepost.format.checksum import Checksum

GOLDEN = Path(__file__).parents[1] / "golden" / "files"


def record(tag=b"w", dims=(2,), tensor_type=b"Float32", content=bytes(8)) -> bytes:
    """A plain Value field; an argument that is None is left out."""
    tensor = b"".join(wire.varint_field(1, dim % 2**64) for dim in dims)
    tensor += wire.bytes_field(2, tensor_type) if tensor_type is not None else b""
    tensor += wire.bytes_field(3, content) if content is not None else b""
    value = wire.bytes_field(1, tag) if tag is not None else b""
    return wire.bytes_field(1, value + wire.bytes_field(2, tensor))


SOUND = record()


def value(inner: bytes) -> bytes:
    return wire.bytes_field(1, inner)


def tensor(inner: bytes) -> bytes:
    return value(wire.bytes_field(1, b"w") + wire.bytes_field(2, inner))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(SOUND + record(b"w", content=bytes(4)), id="slices with too much content"),
        pytest.param(SOUND + record(b"v") + SOUND, id="tag that comes again"),
        pytest.param(SOUND + record(b"v", dims=(2**62, 2**62)), id="product of dims beyond 64 bits"),
        pytest.param(SOUND + record(b"v", dims=(2**62, 4)), id="product of dims that is 0 modulo 2**64"),
        pytest.param(SOUND + record(b"v", dims=(-1,)), id="negative dim"),
        pytest.param(SOUND + record(b"v", dims=(-2, -1)), id="negative dims with a positive product"),
        pytest.param(SOUND + record(b"v", dims=(1,) * 65, content=bytes(4)), id="too many dims"),
        pytest.param(SOUND + record(b"v", dims=(0, -1), content=b""), id="negative dim without elements"),
        pytest.param(SOUND + record(b"v", content=bytes(7)), id="short content"),
        pytest.param(SOUND + record(b"v", content=bytes(9)), id="long content"),
        pytest.param(SOUND + record(b"v", dims=(0,), content=bytes(8)), id="dims [0] with two elements"),
        pytest.param(SOUND + record(b"v", dims=(), content=b""), id="scalar without content"),
        pytest.param(SOUND + record(b"v", dims=(), tensor_type=b"str", content=b""), id="empty text"),
        pytest.param(SOUND + record(b"v", dims=(), tensor_type=b"str", content=b"abc"), id="text of 3 bytes"),
        pytest.param(SOUND + record(b"v", dims=(2,), tensor_type=b"str"), id="two texts"),
        pytest.param(SOUND + record(None), id="no tag"),
        pytest.param(SOUND + record(b""), id="empty tag"),
        pytest.param(SOUND + record(b"\xff"), id="tag not UTF-8"),
        pytest.param(SOUND + record(b"v", tensor_type=None), id="no type"),
        pytest.param(SOUND + record(b"v", tensor_type=b"\xff"), id="type not UTF-8"),
        pytest.param(SOUND + record(b"v", content=None), id="no content"),
        pytest.param(SOUND + value(wire.bytes_field(1, b"v")), id="no tensor"),
        pytest.param(record(dims=(4,)) + record(dims=(4,), tensor_type=b"Int32"), id="slices of two types"),
        pytest.param(record(dims=(4,)) + record(dims=(2, 2)), id="slices of two shapes"),
        pytest.param(SOUND + value(wire.bytes_field(1, b"v") * 2), id="tag twice"),
        pytest.param(SOUND + value(wire.bytes_field(2, b"") * 2), id="tensor twice"),
        pytest.param(SOUND + tensor(wire.bytes_field(2, b"Int8") * 2), id="type twice"),
        pytest.param(SOUND + tensor(wire.bytes_field(3, b"a") * 2), id="content twice"),
        pytest.param(SOUND + wire.varint_field(1, 5), id="value that is a number"),
        pytest.param(SOUND + value(wire.varint_field(1, 5)), id="tag that is a number"),
        pytest.param(SOUND + value(wire.varint_field(2, 5)), id="tensor that is a number"),
        pytest.param(SOUND + tensor(wire.varint_field(2, 5)), id="type that is a number"),
        pytest.param(SOUND + tensor(wire.varint_field(3, 5)), id="content that is a number"),
        pytest.param(SOUND + tensor(b"\x0d" + bytes(4)), id="dims of wire type 5"),
        pytest.param(SOUND + tensor(wire.bytes_field(1, b"\x80")), id="packed dims cut short"),
        pytest.param(SOUND + b"\x0b\x0c", id="group"),
        pytest.param(SOUND + b"\x0b" * 100_000, id="nested groups"),
        pytest.param(SOUND + b"\x0e", id="wire type 6"),
        pytest.param(SOUND + b"\x00", id="zero behind"),
        pytest.param(SOUND + bytes(64), id="zeros behind"),
        pytest.param(SOUND + b"\x8a\x00" + record(b"v")[1:], id="key longer than need be"),
        pytest.param(SOUND + b"\x0a" + b"\x80" * 10 + b"\x00", id="length of 11 bytes"),
        pytest.param(SOUND + b"\x0a" + b"\xff" * 9 + b"\x02", id="length beyond 64 bits"),
        pytest.param(SOUND + b"\x0a" + wire.encode_varint(10**10), id="Value of 10 GB"),
        pytest.param(SOUND + value(b"\x0a" + wire.encode_varint(10**10)), id="tag of 10 GB"),
        pytest.param(SOUND + tensor(b"\x1a" + wire.encode_varint(10**10)), id="content of 10 GB"),
        pytest.param(SOUND + tensor(b"\x0a" + wire.encode_varint(2**64 - 1)), id="dims of 16 EB"),
        pytest.param(SOUND + wire.bytes_field(schema.METADATA_FIELD, b"{}"), id="metadata without header"),
        pytest.param(SOUND + wire.bytes_field(schema.HEADER_FIELD, b"x"), id="header in the middle"),
    ],
)
def test_broken_records_are_damage(content, read):
    """After a sound record the file is a checkpoint, so what does not fit is damage."""
    with pytest.raises(DamagedCheckpointError, match=r"^test\.ckpt, byte \d+: found"):
        read(content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "an empty file"),
        (b"\n", "begins with 0a"),
        (b"hello world", "begins with"),
        (b"\n\n\n\n text", "begins with|byte"),
        (bytes(1000), "begins with"),
        (b"\xff" * 1000, "begins with"),
        (pickle.dumps({"w": [1.0]}), "pickle"),
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (wire.bytes_field(7, b"unknown"), "without any entry"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
    ],
)
def test_other_files_are_named(content, says, read):
    """Who gives the wrong file is told what it seems to be."""
    with pytest.raises(MilepostError, match=says):
        read(content)


def test_a_zip_file_is_named(read):
    """Which is what torch.save writes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(NotACheckpointError, match=r"torch\.save"):
        read(file.getvalue())


@pytest.mark.parametrize("inner", [wire.bytes_field(3, b""), None])
def test_what_this_version_does_not_read_is_named(inner, read):
    """A hash table, and a type of a later MindSpore."""
    content = value(wire.bytes_field(1, b"table") + inner) if inner else record(b"table", tensor_type=b"HiFloat8")
    with pytest.raises(NotACheckpointError, match=r"table.*(MapParameter|HiFloat8)"):
        read(content)


@pytest.fixture
def small(array, write):
    """A small file of the profile with all that it can have."""
    arrays = [
        array("w", "float32", [2, 3], bytes(range(24))),
        array("empty", "int8", [0, 3], b"", "buffer"),
        array("note", "str", [], b"a\0\0\0", "appended"),
        array("step", "int64", [], bytes(8), "optimizer"),
    ]
    return write(arrays, {"epoch": 1}, {"tied": "w"}, slice_nbytes=16)


def test_every_flipped_bit_is_found_or_harmless(small, read, content_of):
    """A file with one wrong bit is refused, or fails its contents' checksums, or reads as it was saved."""
    sound = read(small)
    for position in range(8 * len(small)):
        flipped = bytearray(small)
        flipped[position // 8] ^= 1 << position % 8
        content = bytes(flipped)
        try:
            index = read(content)
        except MilepostError:
            continue
        assert index == sound, f"bit {position}"
        for entry in index.entries.values():
            is_whole = content_of(content, entry) == content_of(small, entry)
            assert (Checksum.of(content_of(content, entry)) == entry.checksum) == is_whole, f"bit {position}"


def test_every_truncation_of_our_files_is_found(small, read):
    """However short; and never is the rest scanned as if it were MindSpore's."""
    for length in range(len(small)):
        with pytest.raises((NotACheckpointError, DamagedCheckpointError)) as caught:
            read(small[:length])
        if length >= 14:
            assert isinstance(caught.value, DamagedCheckpointError)


@pytest.mark.parametrize("lost", [1, 16, 64, 100])
def test_a_file_that_lost_its_head_is_damaged(small, read, lost):
    """A footer without a header is no plain file."""
    with pytest.raises(DamagedCheckpointError):
        read(small[lost:])


def test_two_files_in_one_are_damaged(small, read):
    """Appending is how MindSpore's files may be joined, but the footer knows the size."""
    with pytest.raises(DamagedCheckpointError, match="bytes"):
        read(small + small)


def test_every_truncation_of_a_plain_file_is_found_or_ends_between_entries(read):
    """Nothing in a plain file tells of entries that are missing; but no entry is ever shorter than it says."""
    content = (GOLDEN / "momentum.ckpt").read_bytes()
    sound = list(read(content).entries.items())
    for length in range(len(content)):
        try:
            entries = list(read(content[:length]).entries.items())
        except MilepostError:
            continue
        assert entries == sound[: len(entries)]


def test_every_flipped_byte_of_a_plain_file_ends_in_our_errors(read):
    """It has no checksums, so much is found only by luck; nothing else than our errors may come out."""
    content = (GOLDEN / "appended.ckpt").read_bytes()
    for position in range(len(content)):
        for pattern in (0x01, 0x80, 0xFF):
            flipped = bytearray(content)
            flipped[position] ^= pattern
            try:
                index = read(bytes(flipped))
            except MilepostError:
                continue
            assert all(entry.spec.is_filled_by(entry.nbytes) for entry in index.entries.values())


def forged(small: bytes, change) -> bytes:
    """`small` with another index, and every checksum right."""
    places = schema.FOOTER_FORMAT.unpack(small[3 - schema.FOOTER_NBYTES :])
    index = json.loads(small[places[3] : places[3] + places[4]])
    index = change(index) or index
    text = index if isinstance(index, bytes) else json.dumps(index).encode()
    front = small[: places[0] + places[1]]
    head = wire.bytes_head(schema.INDEX_FIELD, len(text))
    offset = len(front) + len(head)
    nbytes = offset + len(text) + schema.FOOTER_NBYTES
    footer = schema.FOOTER_FORMAT.pack(
        *places[:3], offset, len(text), Checksum.of(text), nbytes, schema.PROFILE, schema.MAGIC
    )
    return front + head + text + schema.FOOTER_HEAD + footer


def test_an_index_may_say_more_than_we_know(small, read):
    """Later writers may append to rows, add keys and kinds."""

    def change(index):
        index["later"] = 1
        index["entries"][0] += ["more"]
        index["entries"][0][1] = "moving average"

    assert read(forged(small, change)).entries["w"].kind == "unknown"


def put(row, position, value):
    def change(index):
        index["entries"][row][position] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(put(0, 0, ""), id="empty name"),
        pytest.param(put(0, 0, 5), id="name that is a number"),
        pytest.param(put(0, 0, "\ud800"), id="name not Unicode"),
        pytest.param(put(0, 0, "note"), id="name twice"),
        pytest.param(put(0, 0, "tied"), id="name that is an alias"),
        pytest.param(put(0, 2, "float12"), id="unknown dtype"),
        pytest.param(put(0, 2, ["float32"]), id="dtype that is a list"),
        pytest.param(put(0, 3, [2, 4]), id="shape too large"),
        pytest.param(put(0, 3, [-2, -3]), id="negative shape"),
        pytest.param(put(0, 3, [2.0, 3]), id="shape with a fraction"),
        pytest.param(put(0, 3, [True, 6]), id="shape with a truth value"),
        pytest.param(put(0, 3, [2**62] * 64), id="huge shape"),
        pytest.param(put(0, 3, [1] * 100 + [6]), id="too many dimensions"),
        pytest.param(put(0, 3, None), id="no shape"),
        pytest.param(put(0, 4, []), id="no place"),
        pytest.param(put(1, 4, []), id="no place for no elements"),
        pytest.param(put(0, 4, [64]), id="half a place"),
        pytest.param(put(0, 4, [[64, 24]]), id="nested places"),
        pytest.param(put(0, 4, [65, 24]), id="not aligned"),
        pytest.param(put(0, 4, [0, 24]), id="over the header"),
        pytest.param(put(0, 4, [64, 16, 64, 8]), id="overlapping itself"),
        pytest.param(put(0, 4, [2**62, 24]), id="far beyond the end"),
        pytest.param(put(0, 4, [-64, 24]), id="before the start"),
        pytest.param(put(3, 4, [64, 8]), id="overlapping another"),
        pytest.param(put(3, 4, [1024, 8]), id="over metadata and index"),
        pytest.param(put(0, 5, "12"), id="short checksum"),
        pytest.param(put(0, 5, "x" * 16), id="checksum that is no number"),
        pytest.param(put(0, 5, 5), id="checksum that is a number"),
        pytest.param(lambda index: index["entries"].append([]), id="empty row"),
        pytest.param(lambda index: index["entries"].append(5), id="row that is a number"),
        pytest.param(lambda index: index.pop("entries"), id="no entries"),
        pytest.param(lambda index: index.pop("aliases"), id="no aliases"),
        pytest.param(lambda index: index.update(entries=5), id="entries that are a number"),
        pytest.param(lambda index: index.update(aliases=[]), id="aliases that are a list"),
        pytest.param(lambda index: index.update(aliases={"": "w"}), id="empty alias"),
        pytest.param(lambda index: index.update(aliases={"v": "nothing"}), id="alias for nothing"),
        pytest.param(lambda index: index.update(aliases={"v": ["w"]}), id="alias for a list"),
        pytest.param(lambda index: index.update(aliases={"note": "w"}), id="alias that is an entry"),
        pytest.param(lambda index: b"[" * 1_000_000, id="JSON nested without end"),
        pytest.param(lambda index: b"[1]", id="JSON that is a list"),
        pytest.param(lambda index: b'{"entries": [], "aliases": NaN}', id="JSON with NaN"),
        pytest.param(lambda index: b"\xff", id="not UTF-8"),
        pytest.param(lambda index: b'{"entries": ' + b"9" * 10_000 + b"}", id="number of 10,000 digits"),
    ],
)
def test_an_index_that_cannot_be_is_refused(small, read, change):
    """Also where its checksum is right: whoever writes a file can calculate one."""
    with pytest.raises(DamagedCheckpointError, match="index"):
        read(forged(small, change))


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("number", [0, 1, 10**10, 2**64 - 1])
def test_a_footer_that_points_elsewhere_is_refused(small, read, position, number):
    """Nothing is read beyond the file, however far it points."""
    values = list(schema.FOOTER_FORMAT.unpack(small[3 - schema.FOOTER_NBYTES :]))
    values[position] = number
    with pytest.raises(DamagedCheckpointError):
        read(small[: 3 - schema.FOOTER_NBYTES] + schema.FOOTER_FORMAT.pack(*values))


@pytest.mark.parametrize("position", [0, 3, 14, -70, -13, -1])
def test_header_and_footer_vouch_for_each_other(small, read, position):
    """One wrong byte in either, magic and version included, and the file is damaged, though its index is whole."""
    changed = bytearray(small)
    changed[position] ^= 2
    with pytest.raises(DamagedCheckpointError):
        read(bytes(changed))


def test_a_newer_profile_asks_for_a_newer_milepost(small, read):
    """It is no damage when header and footer agree."""
    newer = small[:14] + b"\x02\x00" + small[16:-13] + b"\x02\x00" + small[-11:]
    with pytest.raises(NotACheckpointError, match="Update milepost"):
        read(newer)


def test_claims_cost_no_memory(small, read):
    """A file of a few bytes that claims gigabytes is refused before anything is allocated."""
    tracemalloc.start()
    try:
        for content in (SOUND + tensor(b"\x1a" + wire.encode_varint(2**40)), small[:-72]):
            with pytest.raises(DamagedCheckpointError):
                read(content)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
