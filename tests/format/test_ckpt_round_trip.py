"""What is written is read again, by us and by protobuf's own classes; what protobuf writes is read by us."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost.format.dtypes import DTYPES
from milepost.format.spec import KINDS
from milepost.format.text import encode_text

NUMERIC = sorted(DTYPES.keys() - {"str"})
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
SHAPES = st.lists(st.integers(0, 5), max_size=4)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # A text of the metadata may be any that UTF-8 has.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@st.composite
def entries(draw):
    """(name, kind, dtype, shape, content) of a few entries with different names."""
    drawn = []
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        kind = draw(st.sampled_from(KINDS))
        if draw(st.booleans()):
            text = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)).rstrip("\0")
            drawn.append((name, kind, "str", (), encode_text(text)))
        else:
            dtype, shape = draw(st.sampled_from(NUMERIC)), tuple(draw(SHAPES))
            nbytes = math.prod(shape) * DTYPES[dtype].itemsize
            seed = draw(st.binary(min_size=1, max_size=16))
            drawn.append((name, kind, dtype, shape, (seed * (nbytes // len(seed) + 1))[:nbytes]))
    return drawn


@settings(max_examples=80, deadline=None)
@given(
    entries=entries(),
    metadata=st.dictionaries(NAMES, JSON, max_size=3),
    slice_nbytes=st.sampled_from([1, 16, 50, 1 << 30]),
    data=st.data(),
)
def test_everything_comes_back(entries, metadata, slice_nbytes, data, array, write, read, content_of, judge):
    """Names, kinds, dtypes, shapes, contents, aliases and metadata, whether sliced or not."""
    names = [name for name, *_ in entries]
    further = data.draw(st.lists(NAMES.filter(lambda name: name not in names), unique=True, max_size=2 * bool(names)))
    aliases = {alias: data.draw(st.sampled_from(names)) for alias in further}
    arrays = [array(name, dtype, shape, content, kind) for name, kind, dtype, shape, content in entries]
    written = write(arrays, metadata, aliases, slice_nbytes=slice_nbytes)

    index = read(written)
    assert (dict(index.metadata), dict(index.aliases), index.profile) == (metadata, aliases, 1)
    assert index.nbytes == len(written)
    found = [
        (name, entry.kind, entry.spec.dtype, entry.spec.shape, content_of(written, entry))
        for name, entry in index.entries.items()
    ]
    assert found == entries
    assert judged(judge, written) == [
        (name, DTYPES[dtype].ckpt, [0] if dtype == "str" else list(shape), content)
        for name, _, dtype, shape, content in entries
    ]


def judged(judge, written):
    """What protobuf's own classes find, slices joined: (tag, tensor_type, dims, content)."""
    joined = []
    for value in judge.FromString(written).value:
        row = (value.tag, value.tensor.tensor_type, list(value.tensor.dims))
        if joined and joined[-1][:3] == row:
            joined[-1] = (*row, joined[-1][3] + value.tensor.tensor_content)
        else:
            joined.append((*row, value.tensor.tensor_content))
    return joined


def by_protobuf(judge, records):
    """A plain file of (tag, tensor_type, dims, content), as MindSpore writes it."""
    file = judge()
    for tag, tensor_type, dims, content in records:
        tensor = file.value.add(tag=tag).tensor
        tensor.tensor_type, tensor.tensor_content = tensor_type, content
        tensor.dims.extend(dims)
    return file.SerializeToString()


@settings(max_examples=80, deadline=None)
@given(entries=entries().filter(bool), slice_nbytes=st.sampled_from([16, 48, 1 << 30]))
def test_plain_files_by_protobuf_are_read(entries, slice_nbytes, read, content_of, judge):
    """Bit for bit, adjacent slices joined."""
    records = []
    for name, _, dtype, shape, content in entries:
        for begin in range(0, len(content), slice_nbytes) or (0,):
            dims = [0] if dtype == "str" else shape
            records.append((name, DTYPES[dtype].ckpt, dims, content[begin : begin + slice_nbytes]))
    written = by_protobuf(judge, records)
    index = read(written)
    assert (index.profile, dict(index.metadata)) == (None, {})
    found = [
        (name, entry.spec.dtype, entry.spec.shape, content_of(written, entry)) for name, entry in index.entries.items()
    ]
    assert found == [(name, dtype, shape, content) for name, _, dtype, shape, content in entries]
    assert all((entry.kind, entry.checksum) == ("unknown", None) for entry in index.entries.values())


@pytest.mark.parametrize(
    ("tensor_type", "dims", "content", "dtype", "shape"),
    [
        ("Float32", [0], bytes(4), "float32", ()),
        ("Float32", [], bytes(4), "float32", ()),
        ("Float32", [0], b"", "float32", (0,)),
        ("Float32", [1], bytes(4), "float32", (1,)),
        ("Float32", [2, 0, 3], b"", "float32", (2, 0, 3)),
        ("str", [0], bytes(4), "str", ()),
        ("str", [], b"a\0\0\0", "str", ()),
        ("Uint8", [2], b"ab", "uint8", (2,)),
        ("UInt8", [2], b"ab", "uint8", (2,)),
        ("Uint64", [1], bytes(8), "uint64", (1,)),
        ("Int4", [3], b"abc", "int4", (3,)),
    ],
)
def test_every_way_mindspore_writes_it_is_understood(judge, read, tensor_type, dims, content, dtype, shape):
    """The dims [0] mean three things, and the unsigned types have two spellings."""
    spec = read(by_protobuf(judge, [("w", tensor_type, dims, content)])).entries["w"].spec
    assert (spec.dtype, spec.shape) == (dtype, shape)


def test_empty_slices_are_left_out(judge, read):
    """MindSpore's saving in the background makes some."""
    parts = [b"", b"ab", b"", b"cd"]
    entry = read(by_protobuf(judge, [("w", "Int8", [4], part) for part in parts])).entries["w"]
    assert [extent.length for extent in entry.extents] == [2, 2]


def test_a_scan_does_not_read_large_contents(judge, source_of):
    """A file of many gigabytes is opened by reading its records' heads."""
    from milepost.format.ckpt_index import read_index

    source = source_of(by_protobuf(judge, [(f"w{number}", "Int8", [1 << 20], bytes(1 << 20)) for number in range(8)]))
    assert len(read_index(source, "f").entries) == 8
    assert source.nbytes_read < 100_000


def test_a_scan_of_small_records_reads_the_file_once_in_few_reads(judge, source_of):
    """Twenty thousand small reads would take longer than the reading."""
    from milepost.format.ckpt_index import read_index

    source = source_of(by_protobuf(judge, [(f"layer.{n}.weight", "Int8", [300], bytes(300)) for n in range(5_000)]))
    assert len(read_index(source, "f").entries) == 5_000
    assert source.reads < 30
    assert source.nbytes_read < 1.2 * source.nbytes
