"""`describe`: the values of a tensor in a few figures and a histogram. How they are printed is not known here."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from milepost.values import doubles

BINS = 12


@dataclass(frozen=True, slots=True)
class Statistics:
    """What values are like. Figures are over the finite ones; None where there is none. Of complex ones, the sizes.

    Args:
        count: How many values there are.
        nans: How many of them are NaN.
        infinities: How many are infinite.
        zeros: How many are zero.
        minimum: The lowest.
        maximum: The highest.
        mean: Their mean.
        deviation: Their standard deviation (dividing by how many there are).
        norm: The square root of the sum of their squares.
        edges: The histogram's `BINS` + 1 edges, from the lowest to the highest; none where all are (almost) equal.
        counts: How many values are in each bin; the last includes its upper edge.
    """

    count: int
    nans: int
    infinities: int
    zeros: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    norm: float | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]


def describe(values: NDArray[np.generic]) -> Statistics:
    """Return what the values of an array are like.

    Args:
        values: An array of any shape, of a type of numbers.

    Example:
        >>> found = describe(np.array([1.0, 2.0, 3.0, np.nan]))
        >>> found.mean, found.minimum, found.maximum, found.nans
        (2.0, 1.0, 3.0, 1)
    """
    flat = np.abs(values).reshape(-1) if np.iscomplexobj(values) else values.reshape(-1)
    real = doubles(flat)
    finite = real[np.isfinite(real)]
    nans, zeros = int(np.isnan(real).sum()), int((real == 0).sum())
    infinities = real.size - finite.size - nans
    if not finite.size:
        return Statistics(real.size, nans, infinities, zeros, None, None, None, None, None, (), ())
    low, high = float(finite.min()), float(finite.max())
    # Of the largest numbers the squares, and sums, are beyond a double: they are made smaller for as long.
    scale = max(abs(low), abs(high)) or 1.0
    scale = 2.0 ** min(math.frexp(scale)[1], 1023)
    scaled = finite / scale
    mean = float(scaled.mean())
    deviation = float(np.sqrt(np.square(scaled - mean).mean()))
    norm = float(np.sqrt(np.square(scaled).sum()))
    counts, edges = np.array([], int), np.array([])
    if low < high:
        with contextlib.suppress(ValueError):  # too few doubles between the two for so many bins
            counts, edges = np.histogram(scaled, BINS)
    return Statistics(
        count=real.size,
        nans=nans,
        infinities=infinities,
        zeros=zeros,
        minimum=low,
        maximum=high,
        mean=mean * scale,
        deviation=deviation * scale,
        norm=norm * scale,
        edges=tuple((edges * scale).tolist()),
        counts=tuple(counts.tolist()),
    )
