"""Arrays as every container takes them: checked, measured, then their contents. The bytes around are not known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from milepost.errors import SettingError, UnsupportedStateError
from milepost.format import schema, strict_json
from milepost.format.dtypes import DTYPES
from milepost.format.spec import KINDS, Array

BLOCK_NBYTES = 4 << 20
"""Bytes that are checksummed and handed out at a time: the fewer pieces, the better for a disk; docs/performance.md."""

LARGE_NBYTES = 16 << 10
"""From here on a content is handed out as it lies; a smaller one is copied, which costs less than another write."""


def check_arrays(arrays: Sequence[Array], aliases: Mapping[str, str]) -> None:
    """Refuse, as a `SettingError`, what no container could give back: names, dtypes, kinds and shapes."""
    _check_names([array.spec.name for array in arrays], aliases)
    for array in arrays:
        _check_array(array)


def _check_names(names: Sequence[str], aliases: Mapping[str, str]) -> None:
    seen: set[str] = set()
    for name in [*names, *aliases]:
        if not name or not strict_json.is_unicode(name):
            raise unusable(name, "an empty name" if not name else "half of a surrogate pair in it", "a Unicode name")
        if name in seen:
            raise unusable(name, "two entries of this name", "each name once")
        seen.add(name)
    for alias, name in aliases.items():
        if name not in seen or name in aliases:
            raise unusable(alias, f"an alias for {name!r}", "the name of an array of this file")


def _check_array(array: Array) -> None:
    spec = array.spec
    if spec.dtype not in DTYPES:
        raise unusable(spec.name, f"the dtype {spec.dtype!r}", "one of " + ", ".join(DTYPES))
    if array.kind not in KINDS:
        raise unusable(spec.name, f"the kind {array.kind!r}", "one of " + ", ".join(KINDS))
    if len(spec.shape) > schema.DIMENSIONS_LIMIT or (
        spec.shape and not 0 <= min(spec.shape) <= max(spec.shape) < 2**63
    ):
        raise unusable(
            spec.name, f"the shape {spec.shape}", f"at most {schema.DIMENSIONS_LIMIT} lengths from 0 to 2**63 - 1"
        )
    if spec.dtype == "str" and spec.shape:
        raise unusable(spec.name, f"a text of shape {spec.shape}", "one text, of shape ()")


def measured(array: Array) -> tuple[Callable[[], memoryview], int]:
    """What gives the content, and its length; nothing but a text's own content tells how long that is.

    Raises:
        SettingError: The content does not fit its spec.
    """
    content, nbytes = array.content, 0
    if array.spec.dtype == "str":
        text = array.content()
        content, nbytes = (lambda: text), len(text)
    else:
        nbytes = array.spec.nbytes
    if not array.spec.is_filled_by(nbytes):
        raise unusable(
            array.spec.name, f"{nbytes} bytes for {array.spec.shape}", "what encode_text, or an array, gives"
        )
    return content, nbytes


def take(array: Array, content: Callable[[], memoryview], nbytes: int) -> memoryview:
    """The content, after a look at its length; what was announced can no longer be changed."""
    taken = memoryview(content())
    if not len(taken) == taken.nbytes == nbytes:
        raise UnsupportedStateError(
            f"entry {array.spec.name!r}",
            found=f"a content of {len(taken)} items in {taken.nbytes} bytes",
            expected=f"{nbytes} bytes for {array.spec.dtype} {array.spec.shape}",
            remedy="Keep the array as it is until the save has ended.",
        )
    return taken


def unusable(name: str, found: str, expected: str) -> SettingError:
    """The error of an entry that no file can hold as it is."""
    return SettingError(f"entry {name!r}", found=found, expected=expected, remedy="Correct it before saving.")
