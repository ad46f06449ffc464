"""Entries <-> the JSON object that is the index of a file of Milepost's. Where it stands is not known here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from milepost.format import schema, strict_json
from milepost.format.dtypes import DTYPES
from milepost.format.spec import KINDS, ArraySpec, Entry, Extent

CHECKSUM = 5
"""Where in a row the checksum stands."""


def row(spec: ArraySpec, kind: str, extents: Iterable[Extent], checksum: int) -> list[object]:
    """Return the row of one entry, as long for one checksum as for any other.

    >>> row(ArraySpec("w", "float32", (2, 3)), "parameter", [Extent(64, 24)], 0xABC)
    ['w', 'parameter', 'float32', (2, 3), [64, 24], '0000000000000abc']
    """
    places = [number for extent in extents for number in (extent.offset, extent.length)]
    return [spec.name, kind, spec.dtype, spec.shape, places, f"{checksum:016x}"]


def encode(rows: list[list[object]], aliases: Mapping[str, str]) -> bytes:
    """Return the index as JSON."""
    return strict_json.dump({"entries": rows, "aliases": aliases})


def decode(index: Mapping[str, Any], limit: int) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the entries and aliases of an index; every content lies, alone, before byte `limit`.

    Raises:
        ValueError: The index cannot be; the message says why.
    """
    try:
        entries = _entries(index["entries"], limit)
        return entries, _aliases(index["aliases"], entries)
    except (AttributeError, LookupError, TypeError) as error:  # rows of another form than they should have
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _entries(rows: list[list[Any]], limit: int) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    end = schema.HEADER_NBYTES
    for values in rows:
        entry = _entry(*values)
        for offset, length in entry.extents:
            # Ascending and disjoint: a small file cannot claim to hold the same bytes a million times.
            if offset < end or offset % schema.ALIGNMENT:
                raise ValueError(f"{values[0]!r} at byte {offset}, overlapping or not aligned")
            end = offset + length
        entries[values[0]] = entry
    if len(entries) != len(rows):
        (name, _), *_ = Counter(values[0] for values in rows).most_common(1)
        raise ValueError(f"two entries named {name!r}")
    if end > limit:
        raise ValueError(f"contents up to byte {end}, beyond {limit}")
    return entries


def _entry(name: str, kind: str, dtype: str, dims: list[int], places: list[int], digits: str, *_later: object) -> Entry:
    """One row, to which later versions may append; a kind that they may have added is unknown here."""
    if not isinstance(name, str) or not name or not (name.isascii() or strict_json.is_unicode(name)):
        raise ValueError(f"the name {name!r}")
    for number in (*dims, *places):
        if type(number) is not int or not 0 <= number < _END:
            raise ValueError(f"{name!r} of shape {dims} at {places}")
    if len(dims) > schema.DIMENSIONS_LIMIT:
        raise ValueError(f"{name!r} of {len(dims)} dimensions")
    if dtype not in DTYPES:
        raise ValueError(f"{name!r} of the unknown dtype {dtype!r}")
    # A file may have many thousands, and nearly every content is one run: what follows is the quickest there is.
    if len(places) == 2:
        nbytes = places[1]
        extents: tuple[Extent, ...] = (_new(Extent, places),)
    else:
        nbytes = sum(places[1::2])
        extents = tuple(map(Extent, places[::2], places[1::2]))
    if len(places) != 2 * len(extents) or not extents or len(digits) != 16:
        raise ValueError(f"{name!r} at {places} with the checksum {digits!r}")
    spec = _new(ArraySpec, (name, dtype, tuple(dims)))
    is_filled = 0 < nbytes == math.prod(dims) * DTYPES[dtype].itemsize and dtype != "str"
    if not is_filled and not spec.is_filled_by(nbytes):
        raise ValueError(f"{nbytes} bytes for {name!r}, {dtype} {dims}")
    entry: Entry = _new(Entry, (spec, kind if kind in KINDS else "unknown", extents, int(digits, 16)))
    return entry


_END = 2**63
"""Where the numbers end that every reader has."""

_new: Any = tuple.__new__
"""Makes a named tuple in half the time of its own class, whose call does no more."""


def _aliases(aliases: dict[str, str], entries: Mapping[str, Entry]) -> dict[str, str]:
    for alias, name in aliases.items():
        if not alias or not strict_json.is_unicode(alias) or alias in entries or name not in entries:
            raise ValueError(f"the alias {alias!r} for {name!r}")
    return aliases
