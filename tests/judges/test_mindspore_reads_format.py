"""Real MindSpore 2.10.0 reads what the codec writes, bit for bit."""

from __future__ import annotations

import hashlib
import math
import random

import pytest

from milepost.format.ckpt_plan import plan
from milepost.format.dtypes import DTYPES
from milepost.format.spec import Array, ArraySpec
from milepost.format.text import encode_text

pytestmark = pytest.mark.slow

NOT_READ = {"complex64", "complex128", "float8_e4m3fn", "float8_e5m2"}
"""What MindSpore writes but refuses to read, the whole file with it."""
SHARED = sorted(DTYPES.keys() - NOT_READ - {"str"})
TEXTS = ("", "note", "gelernt: 你好 😀", "x" * 1000)


def array(name, dtype, shape) -> Array:
    """An array of arbitrary bits, NaNs of every kind among them."""
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    content = random.Random(name).randbytes(nbytes)
    if dtype == "bool":
        content = bytes(byte & 1 for byte in content)
    return Array(ArraySpec(name, dtype, shape), "parameter", lambda: memoryview(content))


def text(name, value) -> Array:
    return Array(ArraySpec(name, "str", ()), "appended", lambda: memoryview(encode_text(value)))


def every_dtype(prefix, shape) -> list[Array]:
    return [array(f"{prefix}.{dtype}", dtype, shape) for dtype in SHARED]


FILES = {
    "dtypes": (every_dtype("matrix", (3, 7)) + every_dtype("scalar", ()) + every_dtype("one", (1,)), {}),
    "no elements": ([array("a", "float32", (0, 3)), array("b", "int8", (2, 0, 3)), array("c", "int64", (2,))], {}),
    "texts": (
        [array("w", "float32", (2,)), *(text(f"text {number}", value) for number, value in enumerate(TEXTS))],
        {},
    ),
    "slices": (every_dtype("sliced", (100, 3)), {"slice_nbytes": 64}),
    "paddings": ([array(f"{'n' * size}{size}", "uint8", (size,)) for size in range(1, 300)], {}),
    "large": ([array("w", "float32", (3, 1 << 20))], {"slice_nbytes": 5 << 20}),
    "unicode": ([array("schicht.gewicht.größe.层.😀", "float16", (2,))], {}),
    "aliases": ([array("w", "float32", (2,))], {"aliases": {"tied": "w"}}),
}


def expected(arrays) -> list[dict[str, object]]:
    rows = []
    for each in arrays:
        row = {"name": each.spec.name, "dtype": each.spec.dtype, "shape": list(each.spec.shape)}
        content = bytes(each.content())
        if each.spec.dtype == "str":
            row["text"] = content.decode("utf-32-le").rstrip("\0")
        else:
            row["sha256"] = hashlib.sha256(content).hexdigest()
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def judged(tmp_path_factory, read_with_mindspore):
    """File -> what MindSpore found in it."""
    folder = tmp_path_factory.mktemp("written")
    files = FILES | {dtype: ([array("w", dtype, (2,))], {}) for dtype in NOT_READ}
    for name, (arrays, options) in files.items():
        planned = plan(arrays, {"epoch": 1, "note": "crc_num"}, **options)
        (folder / f"{name}.ckpt").write_bytes(b"".join(planned.chunks()))
    return dict(zip(files, read_with_mindspore([folder / f"{name}.ckpt" for name in files]), strict=True))


@pytest.mark.parametrize("name", FILES)
def test_mindspore_finds_every_entry_bit_for_bit(name, judged):
    """Names, order, dtypes, shapes and bytes; the profile's own fields are skipped, aliases unknown."""
    arrays, _ = FILES[name]
    assert judged[name] == {"entries": expected(arrays)}


@pytest.mark.parametrize("dtype", sorted(NOT_READ))
def test_mindspore_refuses_the_types_that_the_specification_says_it_does(dtype, judged):
    """So that the page stays true when MindSpore learns them."""
    assert "error" in judged[dtype]
