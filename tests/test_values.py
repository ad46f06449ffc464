"""Contents as NumPy's values and back, with torch as the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from milepost.format.dtypes import DTYPES
from milepost.format.spec import ArraySpec
from milepost.state.tensors import TO_TORCH
from milepost.values import FLOATS, decode, doubles, encode


def by_torch(content: bytes, dtype: str) -> np.ndarray:
    tensor = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(TO_TORCH[dtype])
    return (tensor.to(torch.complex128) if tensor.is_complex() else tensor.to(torch.float64)).numpy()


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"str", "bool"}))
@given(pattern=st.binary(min_size=16, max_size=64).map(lambda content: content[: len(content) // 16 * 16]))
def test_every_bit_pattern_has_the_value_that_torch_says(dtype, pattern):
    """Of each type."""
    values = decode(pattern, ArraySpec("w", dtype, (len(pattern) // DTYPES[dtype].itemsize,)))
    expected = by_torch(pattern, dtype)
    if dtype in ("int64", "uint64"):
        assert values.astype(np.float64).tolist() == expected.tolist()
    else:
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2"])
def test_all_values_of_a_small_type_come_back_as_they_were(dtype):
    """NaN too, though not each of its patterns."""
    itemsize = DTYPES[dtype].itemsize
    patterns = np.arange(256**itemsize).astype(f"<u{itemsize}").tobytes()
    spec = ArraySpec("w", dtype, (256**itemsize,))
    values = doubles(decode(patterns, spec))
    again = bytes(encode(values, dtype))
    np.testing.assert_array_equal(doubles(decode(again, spec)), values)
    is_number = ~np.isnan(values)
    assert np.array_equal(
        np.frombuffer(again, f"<u{itemsize}")[is_number], np.frombuffer(patterns, f"<u{itemsize}")[is_number]
    )


@pytest.mark.parametrize("dtype", FLOATS)
@given(st.lists(st.floats(-400, 400), min_size=1, max_size=20))
def test_values_are_rounded_to_the_nearest(dtype, values):
    """Half to even: as torch does it from single precision, which is what these values have."""
    single = np.array(values, np.float32)
    content = bytes(encode(single.astype(np.float64), dtype))
    expected = torch.from_numpy(single).to(TO_TORCH[dtype]).to(torch.float64).numpy()
    np.testing.assert_array_equal(by_torch(content, dtype), expected)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_what_is_in_the_middle_goes_to_the_even_one(dtype):
    """At every middle between two neighbours."""
    itemsize = DTYPES[dtype].itemsize
    spec = ArraySpec("w", dtype, (128 * 256 ** (itemsize - 1),))
    every = doubles(decode(np.arange(spec.shape[0]).astype(f"<u{itemsize}").tobytes(), spec))
    finite = every[np.isfinite(every)]
    middles = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    expected = torch.from_numpy(middles).to(TO_TORCH[dtype]).to(torch.float64).numpy()
    np.testing.assert_array_equal(by_torch(bytes(encode(middles.astype(np.float64), dtype)), dtype), expected)


def test_a_scalar_is_a_scalar():
    """Of shape ()."""
    assert decode(bytes(encode(np.float64(0.5), "bfloat16")), ArraySpec("w", "bfloat16", ())).shape == ()
