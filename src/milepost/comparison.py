"""`compare`: two files entry by entry, one pair of contents in memory at a time. What a difference means is not known.

Contents with the same checksum are the same, and are not read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milepost.engine.open_file import OpenFile
from milepost.format.dtypes import DTYPES
from milepost.format.spec import ArraySpec, Entry
from milepost.values import decode, doubles

_BLOCK = 1 << 20
"""Values that are compared at a time, in double precision."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the values of an entry have moved.

    Args:
        relative_l2: The norm of the difference by the norm of the values before: infinite where those are all zero.
        cosine: The cosine of the angle between the two; NaN where either is all zero.
        max_abs: The largest difference of a value.
        changed_share: The share of the values that have another bit pattern; of values of two dtypes, that differ.
    """

    relative_l2: float
    cosine: float
    max_abs: float
    changed_share: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What became of a name.

    Args:
        name: The entry's name, or a further name of it.
        status: ``added``, ``removed``, ``reshaped``, ``changed`` or ``equal``. An entry of another dtype has changed,
            whatever its values.
        before: The entry in the first file, or None.
        after: The entry in the second file, or None.
        drift: How far the values have moved, if they have changed and are numbers.
    """

    name: str
    status: str
    before: Entry | None
    after: Entry | None
    drift: Drift | None = None


def compare(
    before: OpenFile, after: OpenFile, on_compared: Callable[[int], object] = lambda _: None
) -> Iterator[Difference]:
    """Give what became of every name of two files, in the first's order, then what was added.

    Args:
        before: A file.
        after: Another file.
        on_compared: Is told of bytes of the first file that were compared.

    Raises:
        DamagedCheckpointError: A content is not as it was saved.

    Example:
        >>> import tempfile, torch
        >>> from milepost import save_checkpoint
        >>> from milepost.interop.files import open_file
        >>> folder = tempfile.mkdtemp()
        >>> for name, value in (("a", 1.0), ("b", 1.5)):
        ...     _ = save_checkpoint({"w": torch.tensor([value, 2.0])}, f"{folder}/{name}.ckpt")
        >>> with open_file(f"{folder}/a.ckpt") as a, open_file(f"{folder}/b.ckpt") as b:
        ...     (found,) = compare(a, b)
        >>> found.status, found.drift.max_abs, found.drift.changed_share
        ('changed', 0.5, 0.5)
    """
    names = [[*file.index.entries, *file.index.aliases] for file in (before, after)]
    known = set(names[1])
    for name in names[0]:
        old = before.entry(name)
        if name not in known:
            yield Difference(name, "removed", old, None)
            continue
        new = after.entry(name)
        if old.spec.shape != new.spec.shape:
            yield Difference(name, "reshaped", old, new)
        elif (old.spec.dtype, old.checksum) == (new.spec.dtype, new.checksum) and old.checksum is not None:
            yield Difference(name, "equal", old, new)
        else:
            yield _compared(name, before, after)
        on_compared(old.nbytes)
    for name in sorted(known.difference(names[0]), key=names[1].index):
        yield Difference(name, "added", None, after.entry(name))


def _compared(name: str, before: OpenFile, after: OpenFile) -> Difference:
    old, new = before.entry(name), after.entry(name)
    contents = before.read(name), after.read(name)
    if old.spec.dtype == new.spec.dtype and contents[0] == contents[1]:
        return Difference(name, "equal", old, new)
    if "str" in (old.spec.dtype, new.spec.dtype):
        return Difference(name, "changed", old, new)
    return Difference(name, "changed", old, new, _drift(contents, (old.spec, new.spec)))


def _drift(contents: tuple[bytearray, bytearray], specs: tuple[ArraySpec, ArraySpec]) -> Drift:
    old, new = (decode(content, spec).reshape(-1) for content, spec in zip(contents, specs, strict=True))
    is_complex = np.iscomplexobj(old) or np.iscomplexobj(new)
    patterns = None
    if specs[0].dtype == specs[1].dtype:
        patterns = [_patterns(content, DTYPES[specs[0].dtype].itemsize) for content in contents]
    changed, most = 0, 0.0
    products = np.zeros(4)  # of the difference, before and after with themselves, and of the two with each other
    for begin in range(0, old.size, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        one, other = _real(old[block], is_complex=is_complex), _real(new[block], is_complex=is_complex)
        with np.errstate(invalid="ignore", over="ignore"):
            moved = other - one
            products += [moved @ moved, one @ one, other @ other, one @ other]
            most = float(np.maximum(most, np.abs(moved).max()))  # NaN stays NaN
        if patterns is not None:
            changed += int((patterns[0][block] != patterns[1][block]).any(axis=1).sum())
        else:
            changed += int((moved.reshape(-1, 1 + is_complex) != 0).any(axis=1).sum())
    squares = products.tolist()
    return Drift(
        relative_l2=_ratio(math.sqrt(squares[0]), math.sqrt(squares[1])),
        cosine=squares[3] / math.sqrt(squares[1]) / math.sqrt(squares[2]) if squares[1] and squares[2] else math.nan,
        max_abs=most,
        changed_share=changed / max(1, old.size),
    )


def _patterns(content: bytearray, itemsize: int) -> NDArray[np.unsignedinteger]:
    """The bits of each value, as a row of one or two whole numbers."""
    return np.frombuffer(content, f"u{min(itemsize, 8)}").reshape(-1, max(1, itemsize // 8))


def _real(values: NDArray[np.generic], *, is_complex: bool) -> NDArray[np.float64]:
    """Values in double precision; as two each where either side is complex."""
    if is_complex:
        return values.astype(np.complex128).view(np.float64)
    return doubles(values)


def _ratio(part: float, whole: float) -> float:
    if whole == 0:
        return math.inf if part else 0.0
    return part / whole
