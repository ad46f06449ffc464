"""The one table of element types: canonical name, size, spelling per container. No values are converted here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    Args:
        name: The canonical name, torch's own where torch has the type.
        itemsize: Bytes of one element in a file.
        ckpt: How MindSpore's `.ckpt` spells it.
        safetensors: How safetensors spells it; None where it has no such type.
    """

    name: str
    itemsize: int
    ckpt: str
    safetensors: str | None


DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType("float64", 8, "Float64", "F64"),
        DType("float32", 4, "Float32", "F32"),
        DType("float16", 2, "Float16", "F16"),
        DType("bfloat16", 2, "BFloat16", "BF16"),
        DType("float8_e4m3fn", 1, "Float8E4M3FN", "F8_E4M3"),
        DType("float8_e5m2", 1, "Float8E5M2", "F8_E5M2"),
        DType("complex128", 16, "Complex128", None),
        DType("complex64", 8, "Complex64", "C64"),
        DType("int64", 8, "Int64", "I64"),
        DType("int32", 4, "Int32", "I32"),
        DType("int16", 2, "Int16", "I16"),
        DType("int8", 1, "Int8", "I8"),
        DType("int4", 1, "Int4", None),  # MindSpore's qint4x2: one byte for each element, not for two
        DType("uint64", 8, "UInt64", "U64"),
        DType("uint32", 4, "UInt32", "U32"),
        DType("uint16", 2, "UInt16", "U16"),
        DType("uint8", 1, "UInt8", "U8"),
        DType("bool", 1, "Bool", "BOOL"),
        DType("str", 4, "str", None),  # a text: one code point in UTF-32-LE
    )
}
"""Canonical name to element type."""

_FROM_CKPT = {dtype.ckpt: dtype for dtype in DTYPES.values()}
# MindSpore 0.6 to 1.5 knew the unsigned types as "Uint8" and so on, so other tools of that time may have written that.
_FROM_CKPT |= {f"Uint{bits}": DTYPES[f"uint{bits}"] for bits in (8, 16, 32, 64)}
_FROM_SAFETENSORS = {dtype.safetensors: dtype for dtype in DTYPES.values() if dtype.safetensors}


def from_ckpt(spelling: str) -> DType | None:
    """Return the element type that a `.ckpt` file calls `spelling`, or None.

    >>> from_ckpt("UInt8") is from_ckpt("Uint8") is DTYPES["uint8"]
    True
    """
    return _FROM_CKPT.get(spelling)


def from_safetensors(spelling: str) -> DType | None:
    """Return the element type that safetensors calls `spelling`, or None.

    >>> from_safetensors("F8_E4M3") is DTYPES["float8_e4m3fn"]
    True
    """
    return _FROM_SAFETENSORS.get(spelling)
