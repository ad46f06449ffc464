"""What other containers have no place for, as one text beside the arrays: kinds, types, checksums, aliases, metadata.

The text is JSON, and has a checksum of its own. Where it stands in a file is the container's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import xxhash

from milepost.errors import DamagedCheckpointError
from milepost.format import strict_json
from milepost.format.dtypes import DTYPES
from milepost.format.spec import KINDS, ArraySpec

KEY, CHECKSUM_KEY = "milepost", "milepost.checksum"
"""Under these a container keeps the text and its checksum."""


class Fact(NamedTuple):
    """What the text says of an array: what it is, what it is to the training, and the XXH3-64 of its content."""

    spec: ArraySpec
    kind: str
    checksum: int


@dataclass(frozen=True, slots=True)
class Companion:
    """What stands beside the arrays.

    Args:
        facts: Of each array, in the order in which they were saved.
        aliases: Further names, each with the name of the array that it stands for.
        metadata: The JSON object that the writer stored.
    """

    facts: tuple[Fact, ...]
    aliases: Mapping[str, str]
    metadata: Mapping[str, Any]

    def encode(self) -> dict[str, str]:
        """Return the text and its checksum under their keys; as long for one set of checksums as for any other.

        Raises:
            UnsupportedStateError: The metadata holds what JSON does not.

        >>> fact = Fact(ArraySpec("w", "float32", (2,)), "parameter", 0xABC)
        >>> Companion((fact,), {}, {"epoch": 1}).encode()["milepost"]
        '{"entries":[["w","parameter","float32",[2],"0000000000000abc"]],"aliases":{},"metadata":{"epoch":1}}'
        """
        rows = [
            [fact.spec.name, fact.kind, fact.spec.dtype, fact.spec.shape, hexadecimal(fact.checksum)]
            for fact in self.facts
        ]
        parts = (
            strict_json.dump(rows),
            strict_json.dump(dict(self.aliases)),
            strict_json.encode(self.metadata, "metadata"),
        )
        text = b'{"entries":%b,"aliases":%b,"metadata":%b}' % parts
        return {KEY: text.decode(), CHECKSUM_KEY: checksum_of(text.decode())}


def checksum_of(text: str) -> str:
    """Return the checksum of a companion's text."""
    return hexadecimal(xxhash.xxh3_64_intdigest(text.encode()))


def hexadecimal(checksum: int) -> str:
    """Return a checksum as it stands in files."""
    return f"{checksum:016x}"


def find(
    texts: Mapping[str, Any], where: str, present: Iterable[str], *, has_aliases: bool = False
) -> Companion | None:
    """Return what stands under the keys of `texts`, or None where neither is there.

    Args:
        texts: Where a container keeps its texts.
        where: The file's place in words, for messages.
        present: The names that the container holds.
        has_aliases: Whether aliases are among these names, because the container can share one array.

    Raises:
        DamagedCheckpointError: The text is not what was saved, or is of other arrays.
    """
    text, checksum = texts.get(KEY), texts.get(CHECKSUM_KEY)
    if text is None and checksum is None:
        return None
    if not isinstance(text, str) or not strict_json.is_unicode(text) or checksum_of(text) != checksum:
        raise _damaged(where, "a text that is not what its checksum is of")
    try:
        companion = _decode(strict_json.decode(text.encode()))
        strict_json.check(companion.metadata)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(where, f"a text that is not understood ({type(error).__name__}: {error!s:.200})") from error
    names = {fact.spec.name for fact in companion.facts} | (set(companion.aliases) if has_aliases else set())
    if names != set(present):
        raise _damaged(where, "a text about other arrays than the file holds")
    return companion


def _decode(value: dict[str, Any]) -> Companion:
    facts = tuple([_fact(*row) for row in value["entries"]])
    names = {fact.spec.name for fact in facts}
    aliases = value["aliases"]
    if len(names) != len(facts):
        raise ValueError("two rows of one name")
    for alias, name in aliases.items():
        if not alias or alias in names or name not in names:
            raise ValueError(f"the alias {alias!r} for {name!r}")
    if not isinstance(value["metadata"], dict):
        raise TypeError("metadata that is no object")
    return Companion(facts, aliases, value["metadata"])


def _fact(name: str, kind: str, dtype: str, shape: list[int], digits: str, *_later: object) -> Fact:
    """One row, to which later versions may append; a kind that they may have added is unknown here."""
    if not isinstance(name, str) or not strict_json.is_unicode(name) or dtype not in DTYPES or len(digits) != 16:
        raise ValueError(f"a row for {name!r}")
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape):
        raise ValueError(f"{name!r} of shape {shape}")
    return Fact(ArraySpec(name, dtype, tuple(shape)), kind if kind in KINDS else "unknown", int(digits, 16))


def _damaged(where: str, found: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"{where}, {KEY!r} in the metadata",
        found=found,
        expected="what Milepost put there",
        remedy="The file was changed after it was saved. If another program changed it on purpose, let it leave out "
        f"{KEY!r} and {CHECKSUM_KEY!r}.",
    )
