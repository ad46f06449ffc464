"""A file whose entries have another framework's names and shapes, read as if they had PyTorch's. No torch here.

The metadata of such a file says what undoes it (``docs/format.md``, section 7). Readers of arrays need nothing of this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from milepost.errors import DamagedCheckpointError, SettingError
from milepost.format.spec import ArraySpec, Entry, Index

MINDSPORE = "mindspore"
"""The dialect without the names of a model zoo."""

DIALECTS = (MINDSPORE, "mindspore-r0.6", "mindspore-mindcv")
"""What can be written."""

DIALECT = "dialect"
"""Where the metadata keeps it."""


def check_dialect(dialect: object) -> None:
    """Raise `SettingError` if it is none of `DIALECTS`."""
    if dialect not in DIALECTS:
        raise SettingError(
            "dialect",
            found=repr(dialect),
            expected="one of " + ", ".join(map(repr, DIALECTS)),
            remedy="Leave it out for PyTorch's names.",
        )


def native(index: Index, where: str) -> tuple[Index, dict[str, str]]:
    """Undo the dialect that a file is in; an index that is in none is returned as it is.

    Returns:
        The index with PyTorch's names and shapes, without what PyTorch has not; and PyTorch's names -> the file's,
        where they differ.

    Raises:
        DamagedCheckpointError: What the metadata says does not fit the entries.
    """
    if DIALECT not in index.metadata:
        return index, {}
    try:
        changes = index.metadata[DIALECT]["entries"]
        if not changes.keys() <= index.entries.keys():
            raise ValueError(f"no entry {min(changes.keys() - index.entries.keys())!r}")
        named = {
            name: _changed(entry, changes[name]) if name in changes else entry for name, entry in index.entries.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}") from error
    entries = {entry.spec.name: entry for entry in named.values() if entry is not None}
    aliases = {}
    for alias, name in index.aliases.items():
        target = named.get(name)
        if target is None or alias in entries:
            raise _damaged(where, f"an alias {alias!r} of {name!r}")
        aliases[alias] = target.spec.name
    if len(entries) != sum(entry is not None for entry in named.values()):
        raise _damaged(where, "two entries of one name")
    metadata = {key: value for key, value in index.metadata.items() if key != DIALECT}
    stored = {entry.spec.name: name for name, entry in named.items() if entry is not None and entry.spec.name != name}
    return replace(index, entries=entries, aliases=aliases, metadata=metadata), stored


def _changed(entry: Entry, change: Any) -> Entry | None:
    """An entry as PyTorch has it, or None where it has not."""
    if change is None:
        return None
    name, shape = change
    is_sound = isinstance(name, str) and name and all(type(size) is int and size >= 0 for size in shape)
    spec = ArraySpec(name, entry.spec.dtype, tuple(shape))
    if not is_sound or not spec.is_filled_by(entry.nbytes):
        raise ValueError(f"{entry.spec.name!r} as {name!r} of the shape {shape}")
    return entry._replace(spec=spec)


def _damaged(where: str, found: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{where}, metadata",
        found=f"a dialect that cannot be read ({found})",
        expected="one as docs/format.md describes it",
        remedy="It was written by something else; load an earlier checkpoint.",
    )
