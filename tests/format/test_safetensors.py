"""safetensors: what is written, what is read, what is refused; the safetensors package itself is the judge."""

from __future__ import annotations

import json
import math
import random
import struct
import zlib

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from milepost.errors import DamagedCheckpointError, MilepostError, NotACheckpointError, SettingError
from milepost.format.checksum import Checksum
from milepost.format.containers import read_index
from milepost.format.dtypes import DTYPES
from milepost.format.safetensors import HEADER_LIMIT, plan
from milepost.format.spec import KINDS, Array, ArraySpec
from milepost.format.text import encode_text


def file_of(header, data=b"", *, length=None) -> bytes:
    """A file with this header: JSON, or an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def item(dtype="F32", shape=(2,), begin=0, end=8, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


def written(arrays, metadata=None, aliases=None, **options) -> bytes:
    planned = plan(arrays, metadata or {}, aliases or {}, **options)
    content = b"".join(planned.chunks())
    assert len(content) == planned.nbytes
    return content


def content(dtype, shape, seed) -> bytes:
    filled = random.Random(seed).randbytes(math.prod(shape) * DTYPES[dtype].itemsize)
    return bytes(byte & 1 for byte in filled) if dtype == "bool" else filled


def every_dtype(shape=(2, 3)) -> list[Array]:
    arrays = []
    for dtype in DTYPES:
        filled = encode_text("gelernt: 你好") if dtype == "str" else content(dtype, shape, dtype)
        spec = ArraySpec(dtype, dtype, () if dtype == "str" else shape)
        arrays.append(Array(spec, "buffer", lambda filled=filled: memoryview(filled)))
    return arrays


@pytest.mark.parametrize("shape", [(2, 3), (), (1,), (0, 3), (0,)])
@pytest.mark.parametrize("crc", [False, True])
def test_everything_comes_back(shape, crc, source_of, content_of):
    """Every dtype, kind, alias, text, the order of the entries, and the metadata, with a checksum of each content."""
    arrays = every_dtype(shape)
    file = written(arrays, {"epoch": 3, "nested": {"a": [None, 0.5]}}, {"tied": "float32"}, crc=crc)
    index = read_index(source_of(file), "x")
    assert (dict(index.aliases), dict(index.metadata)) == (
        {"tied": "float32"},
        {"epoch": 3, "nested": {"a": [None, 0.5]}},
    )
    assert [entry.spec for entry in index.entries.values()] == [array.spec for array in arrays]
    for array in arrays:
        entry = index.entries[array.spec.name]
        assert content_of(file, entry) == array.content()
        assert (entry.kind, entry.checksum) == ("buffer", Checksum.of(array.content()))
        assert entry.extents[0].offset % DTYPES[entry.spec.dtype].itemsize == 0 or entry.spec.dtype in (
            "str",
            "complex128",
        )


def test_the_safetensors_package_reads_what_is_written(tmp_path):
    """Bit for bit; a text and complex128, which it does not have, are the bytes of their content."""
    arrays = every_dtype()
    (tmp_path / "x.safetensors").write_bytes(written(arrays, {"epoch": 1}, {"tied": "float32"}))
    found = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert set(found) == {array.spec.name for array in arrays}
    for array in arrays:
        tensor = found[array.spec.name]
        assert tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() == array.content()
        if array.spec.dtype not in ("str", "complex128", "int4"):
            assert str(tensor.dtype) == f"torch.{array.spec.dtype}"
            assert tuple(tensor.shape) == array.spec.shape
    assert found["complex128"].dtype == torch.uint8
    with safe_open(tmp_path / "x.safetensors", "pt") as opened:
        assert opened.metadata()["format"] == "pt"  # which Hugging Face's libraries ask for


def test_what_the_safetensors_package_writes_is_read(tmp_path, source_of, content_of):
    """Every dtype that it has."""
    tensors = {
        dtype.name: torch.frombuffer(
            bytearray(content(dtype.name, (2, 3), dtype.name)), dtype=getattr(torch, dtype.name)
        )
        for dtype in DTYPES.values()
        if dtype.safetensors
    }
    safetensors.torch.save_file(tensors, tmp_path / "x", {"any": "thing"})
    file = (tmp_path / "x").read_bytes()
    index = read_index(source_of(file), "x")
    assert index.container == "safetensors"
    assert {name: (entry.spec.dtype, entry.spec.shape) for name, entry in index.entries.items()} == {
        name: (name, (6,)) for name in tensors
    }
    for name, entry in index.entries.items():
        assert content_of(file, entry) == content(name, (2, 3), name)


SOUND = {"w": item()}


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file_of(SOUND, bytes(7)), id="content cut short"),
        pytest.param(file_of(SOUND, bytes(9)), id="bytes behind"),
        pytest.param(file_of(SOUND, bytes(8), length=10**6), id="header beyond the end"),
        pytest.param(file_of(SOUND, bytes(8), length=HEADER_LIMIT + 1), id="header of 100 MB"),
        pytest.param(file_of(SOUND, bytes(8), length=2**48 - 1), id="header of 256 TB"),
        pytest.param(file_of(SOUND, bytes(8), length=5), id="header cut short"),
        pytest.param(file_of({"w": item(begin=8, end=16)}, bytes(16)), id="hole in front"),
        pytest.param(file_of({"w": item(), "v": item(begin=9, end=17)}, bytes(17)), id="hole"),
        pytest.param(file_of({"w": item(), "v": item(begin=4, end=12)}, bytes(12)), id="overlap"),
        pytest.param(file_of({"w": item(), "v": item()}, bytes(8)), id="the same bytes twice"),
        pytest.param(file_of({"w": item(begin=8, end=0)}, bytes(8)), id="end before begin"),
        pytest.param(file_of({"w": item(begin=-8, end=0)}, bytes(8)), id="negative offset"),
        pytest.param(file_of({"w": item(begin=0.0, end=8)}, bytes(8)), id="offset that is no whole number"),
        pytest.param(file_of({"w": item(begin=False, end=8)}, bytes(8)), id="offset that is a truth value"),
        pytest.param(file_of({"w": item(shape=(3,))}, bytes(8)), id="more elements than bytes"),
        pytest.param(file_of({"w": item(shape=(-2, -1))}, bytes(8)), id="negative dims"),
        pytest.param(file_of({"w": item(shape=(2**62, 4))}, bytes(8)), id="product that is 0 modulo 2**64"),
        pytest.param(file_of({"w": item(shape=(2**62, 2**62, 0), end=0)}), id="strides beyond 64 bits"),
        pytest.param(file_of({"w": item(shape=(1,) * 65, end=4)}, bytes(4)), id="too many dims"),
        pytest.param(file_of({"w": item(shape="2")}, bytes(8)), id="shape that is a text"),
        pytest.param(file_of({"w": {**item(), "shape": 2}}, bytes(8)), id="shape that is a number"),
        pytest.param(file_of({"w": {**item(), "data_offsets": [0, 8, 8]}}, bytes(8)), id="three offsets"),
        pytest.param(file_of({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)), id="no offsets"),
        pytest.param(file_of({"w": [1]}, bytes(8)), id="an array for an entry"),
        pytest.param(file_of({"w": None}, bytes(8)), id="null for an entry"),
        pytest.param(file_of(b'{"w":%b,"w":%b}' % ((json.dumps(item()).encode(),) * 2), bytes(8)), id="a name twice"),
        pytest.param(file_of(b'{"w":{"dtype":"F32","dtype":"F32"}}', bytes(8)), id="a key twice"),
        pytest.param(file_of(b'{"\xff":1}'), id="not UTF-8"),
        pytest.param(file_of(b"{" * 10**5), id="nested without end"),
        pytest.param(file_of(b'{"w":' * 10**5), id="nested objects without end"),
        pytest.param(file_of({"__metadata__": {"a": 1}}), id="metadata that is no text"),
        pytest.param(file_of({"__metadata__": ["a"]}), id="metadata that is no object"),
        pytest.param(file_of({"__metadata__": {"crc_num": "1"}, **SOUND}, bytes(8)), id="another CRC-32"),
        pytest.param(file_of({"__metadata__": {"milepost": "{}"}, **SOUND}, bytes(8)), id="companion without checksum"),
        pytest.param(
            file_of({"__metadata__": {"milepost.checksum": "0" * 16}, **SOUND}, bytes(8)), id="checksum alone"
        ),
    ],
)
def test_broken_files_are_damage(file, source_of):
    """Nothing is used before everything fits: the header into its limit, the contents into the file, without a gap."""
    with pytest.raises(DamagedCheckpointError, match=r"^x\.safetensors"):
        read_index(source_of(file), "x.safetensors")


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "Q8", 5, None])
def test_a_type_that_is_not_known_is_named(dtype, source_of):
    """With its entry."""
    with pytest.raises(NotACheckpointError, match=f"'w'.*{dtype}"):
        read_index(source_of(file_of({"w": item(dtype=dtype)}, bytes(8))), "x.safetensors")


def test_every_flipped_bit_of_our_files_is_found_or_harmless(source_of, content_of):
    """As of a `.ckpt`: refused, or found by a checksum, or it reads as it was saved."""
    arrays = [
        Array(ArraySpec("w", "float32", (2,)), "parameter", lambda: memoryview(bytes(range(8)))),
        Array(ArraySpec("note", "str", ()), "appended", lambda: memoryview(encode_text("hi"))),
        Array(ArraySpec("none", "int8", (0, 3)), "buffer", lambda: memoryview(b"")),
    ]
    file = written(arrays, {"epoch": 1}, {"tied": "w"})
    sound = read_index(source_of(file), "x")
    for position in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[position // 8] ^= 1 << position % 8
        try:
            index = read_index(source_of(bytes(flipped)), "x")
        except MilepostError:
            continue
        for name, entry in sound.entries.items():
            found = index.entries[name]
            is_whole = (found, content_of(flipped, found)) == (entry, content_of(file, entry))
            assert is_whole or Checksum.of(content_of(flipped, found)) != found.checksum, f"bit {position}"
        assert (index.aliases, index.metadata) == (sound.aliases, sound.metadata), f"bit {position}"


def test_every_truncation_is_found(source_of):
    """However short."""
    file = written(every_dtype())
    for length in range(len(file)):
        with pytest.raises(MilepostError):
            read_index(source_of(file[:length]), "x")


def test_mindspores_crc_and_int4_are_as_mindspore_writes_them(source_of):
    """The CRC-32 of names and contents, where the scalar 4 counts as four zeros; the type by the entry's name."""
    arrays = [
        Array(ArraySpec("b", "int4", (3,)), "parameter", lambda: memoryview(b"\1\2\3")),
        Array(ArraySpec("a", "int16", ()), "parameter", lambda: memoryview(b"\4\0")),
    ]
    file = written(arrays, crc=True, framework="ms")
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    texts = header["__metadata__"]
    assert (texts["format"], texts["b"], texts["crc_num"]) == ("ms", "Int4", str(zlib.crc32(b"a\0\0\0\0b\1\2\3")))
    assert header["b"]["dtype"] == "I8"
    plain = {**header, "__metadata__": {"b": "Int4"}}
    assert read_index(source_of(file_of(plain, bytes(5))), "x").entries["b"].spec.dtype == "int4"


def test_a_content_that_changes_while_it_is_saved_is_refused():
    """Its checksum is in the header, before it."""
    seen = iter([b"ab", b"ac"])
    array = Array(ArraySpec("w", "uint8", (2,)), "parameter", lambda: memoryview(next(seen)))
    with pytest.raises(MilepostError, match="changed"):
        b"".join(plan([array], {}).chunks())


def test_a_name_that_safetensors_uses_itself_is_refused():
    """Else the file would have no metadata."""
    with pytest.raises(SettingError, match="__metadata__"):
        plan([Array(ArraySpec("__metadata__", "uint8", ()), "parameter", lambda: memoryview(b"a"))], {})


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")


@given(
    st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES.keys() - {"str"})), shapes, st.sampled_from(KINDS)))
)
def test_any_arrays_come_back_and_the_package_agrees(given_arrays):
    """Whatever they are called, and of whatever type, shape and kind."""
    arrays, contents = [], {}
    for name, (dtype, shape, kind) in given_arrays.items():
        contents[name] = content(dtype, shape, name)
        arrays.append(Array(ArraySpec(name, dtype, shape), kind, lambda name=name: memoryview(contents[name])))
    file = written(arrays)
    index = read_index(Bytes(file), "x")
    assert [(entry.spec, entry.kind) for entry in index.entries.values()] == [(each.spec, each.kind) for each in arrays]
    for name, entry in index.entries.items():
        (run,) = entry.extents
        assert file[run.offset : run.offset + run.length] == contents[name]
    assert set(safetensors.torch.load(file)) == set(given_arrays)


numbers = st.integers(-2, 20) | st.sampled_from([2**62, 2**63, 2**64, 1.5, None, "1"])
items = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "U8", "BOOL", "C64", "F4", 1]), "shape": st.lists(numbers, max_size=3),
     "data_offsets": st.lists(numbers, min_size=1, max_size=3)}
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=3), items, max_size=3), st.binary(max_size=20))
def test_any_header_is_refused_or_gives_bytes_of_the_file_and_the_package_agrees(header, data):
    """Never bytes from elsewhere, never another error than ours; what is read, safetensors itself reads too."""
    file = file_of(header, data)
    try:
        index = read_index(Bytes(file), "x")
    except MilepostError:
        return
    begin = len(file) - len(data)
    for entry in index.entries.values():
        (run,) = entry.extents
        assert begin <= run.offset <= run.offset + run.length <= len(file)
        assert entry.spec.is_filled_by(run.length)
    try:
        safetensors.torch.load(file)
    except SafetensorError as error:
        pytest.fail(f"safetensors refuses it: {error}")


class Bytes:
    """A file in memory."""

    def __init__(self, content):
        self.content, self.nbytes = content, len(content)

    def read(self, offset, length):
        assert 0 <= offset <= offset + length <= self.nbytes
        return self.content[offset : offset + length]
