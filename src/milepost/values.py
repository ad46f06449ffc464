"""The values of an entry's content as NumPy has them, and back. Where contents come from is not known here; no torch.

NumPy lacks bfloat16 and the float8 types, so their values are float32 here, which holds each of them exactly.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from milepost.format.spec import ArraySpec

_PLAIN = {"int4": "int8", "bool": "uint8"}
"""Types that are stored as another one; a bool as a byte, so that one that is neither 0 nor 1 is seen as it is."""

_FLOAT8 = {"float8_e4m3fn": (4, 3), "float8_e5m2": (5, 2)}
"""Bits of exponent and fraction. Source: https://arxiv.org/abs/2209.05433, table 1."""

FLOATS = ("float64", "float32", "float16", "bfloat16", *_FLOAT8)
"""The types of real numbers."""


def decode(content: bytes | bytearray | memoryview, spec: ArraySpec) -> NDArray[np.generic]:
    """Return the values of a content, of the entry's shape; a view of it where NumPy has the type.

    >>> decode(bytes([0x80, 0x3F, 0x00, 0xC0]), ArraySpec("w", "bfloat16", (2,))).tolist()
    [1.0, -2.0]
    """
    if spec.dtype == "bfloat16":
        values: NDArray[np.generic] = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif spec.dtype in _FLOAT8:
        values = _table(spec.dtype)[np.frombuffer(content, np.uint8)]
    else:
        values = np.frombuffer(content, np.dtype(_PLAIN.get(spec.dtype, spec.dtype)).newbyteorder("<"))
    return values.reshape(spec.shape)


def doubles(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return real numbers, whole numbers and truth values in double precision; some NaN would be warned of."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def encode(values: NDArray[np.float64], dtype: str) -> memoryview:
    """Return real numbers as the content of an entry of a type of `FLOATS`, each rounded to the nearest.

    Of the float8 types, what is beyond the largest becomes the largest.

    >>> encode(np.array([1.0, -2.0]), "bfloat16").hex()
    '803f00c0'
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == "bfloat16":
            stored: NDArray[np.generic] = _upper_half(values.astype(np.float32))
        elif dtype in _FLOAT8:
            stored = _nearest(values, dtype)
        else:
            stored = values.astype(np.dtype(dtype).newbyteorder("<"))
    content: NDArray[np.uint8] = np.ascontiguousarray(stored).reshape(-1).view(np.uint8)
    return memoryview(content)  # type: ignore[arg-type]  # NumPy's stubs for Python 3.11 do not say that it is a buffer


def _upper_half(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    # Half of what is cut off, and one more to make the last bit even: what is in the middle goes to the even one.
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding could make a NaN infinite
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")


@cache
def _table(dtype: str) -> NDArray[np.float32]:
    """The value of each of the 256 bytes."""
    exponent_bits, fraction_bits = _FLOAT8[dtype]
    bias = 2 ** (exponent_bits - 1) - 1
    codes = np.arange(128)
    exponent, fraction = codes >> fraction_bits, (codes & (2**fraction_bits - 1)) / 2**fraction_bits
    positive = np.where(
        exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent.astype(np.float64) - bias)
    )
    if dtype == "float8_e5m2":  # as IEEE 754 has it
        positive[exponent == 2**exponent_bits - 1] = np.nan
        positive[0x7C] = np.inf
    else:  # no infinity, and one NaN
        positive[0x7F] = np.nan
    return np.concatenate([positive, -positive]).astype(np.float32)


def _nearest(values: NDArray[np.float64], dtype: str) -> NDArray[np.uint8]:
    table = _table(dtype)[:128].astype(np.float64)
    finite = table[np.isfinite(table)]
    middles = (finite[1:] + finite[:-1]) / 2
    size = np.abs(values)
    codes = np.searchsorted(middles, size)
    is_tie = middles[np.minimum(codes, len(middles) - 1)] == size
    codes = codes + (is_tie & (codes % 2 == 1))  # to the even one
    codes = np.where(np.isinf(size) & (dtype == "float8_e5m2"), 0x7C, codes)
    codes = np.where(np.isnan(size), 0x7F, codes)
    return (codes | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)
