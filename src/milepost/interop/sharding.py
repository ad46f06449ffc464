"""Arrays into several safetensors files and an index, committed so that a reader finds the old model or the new one.

The shards come first, under names that nothing has, and the index last; only then do the shards of the index that it
replaced go. Source of names and index: ``huggingface_hub.serialization``.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from milepost.engine.reader import Reader
from milepost.engine.writer import write as write_file
from milepost.errors import MilepostError, SettingError
from milepost.format.companion import Companion, Fact
from milepost.format.containers import Packaging
from milepost.format.spec import Array, Index
from milepost.storage.base import Storage

INDEX_SUFFIX = ".index.json"


def write(
    storage: Storage, name: str, index: Index, arrays: Sequence[Array], max_shard_nbytes: int, packaging: Packaging
) -> str:
    """Write `arrays`, with the metadata and aliases of `index`, and return the name of the index file.

    Raises:
        SettingError: There is a file called `name`, which readers would take for the model.
        SaveError: The storage refused; what was there is as before.
    """
    present = {stat.name for stat in storage.list()}
    if name in present:
        raise SettingError(
            storage.where(name),
            found="a file of this name",
            expected="none, because Hugging Face's libraries take it and not the shards",
            remedy="Move it away, or choose another name.",
        )
    groups = list(_groups(arrays, max_shard_nbytes))
    names = _names(name, len(groups), present)
    old = _old_shards(storage, name, present)
    done: list[str] = []
    try:
        facts: dict[str, Fact] = {}
        weights: dict[str, str] = {}
        for shard, group in zip(names, groups, strict=True):
            write_file(storage, shard, packaging.lay_out(group, {}, {}))
            done.append(shard)
            facts |= _facts(storage, shard)
            weights |= dict.fromkeys((array.spec.name for array in group), shard)
        ordered = tuple(facts[array.spec.name] for array in arrays)
        texts = Companion(ordered, index.aliases, index.metadata).encode()
        total = sum(entry.nbytes for entry in index.entries.values())
        content = _Json({"metadata": {"total_size": total, **texts}, "weight_map": weights})
        write_file(storage, name + INDEX_SUFFIX, content)
    except BaseException:
        # The index may have its name already, and what came after that failed: what it names stays.
        _remove(storage, sorted(set(done) - _named(storage, name)))
        raise
    _remove(storage, sorted(old - set(names)))
    return name + INDEX_SUFFIX


def _groups(arrays: Sequence[Array], max_shard_nbytes: int) -> Iterator[list[Array]]:
    """Cut where the next array would be too much; one that is too large has a shard to itself."""
    group: list[Array] = []
    nbytes = 0
    for array in arrays:
        more = len(array.content()) if array.spec.dtype == "str" else array.spec.nbytes
        if group and nbytes + more > max_shard_nbytes:
            yield group
            group, nbytes = [], 0
        group.append(array)
        nbytes += more
    yield group


def _names(name: str, count: int, present: set[str]) -> list[str]:
    """Names that nothing has yet: the usual ones, or else with a random part."""
    stem = name.removesuffix(".safetensors")
    while True:
        names = [f"{stem}-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
        if not present & set(names):
            return names
        stem = f"{name.removesuffix('.safetensors')}-{secrets.token_hex(4)}"


def _old_shards(storage: Storage, name: str, present: set[str]) -> set[str]:
    """The shards of the index that is to be replaced, as far as they are called like shards of this name."""
    own = re.compile(re.escape(name.removesuffix(".safetensors")) + r"(-[0-9a-f]{8})?-\d{5}-of-\d{5}\.safetensors")
    return {shard for shard in _named(storage, name) & present if own.fullmatch(shard)}


def _named(storage: Storage, name: str) -> set[str]:
    """The shards that the index of this name leads to, as far as it can be read."""
    try:
        with storage.open(name + INDEX_SUFFIX) as file:
            return set(json.loads(file.read(0, file.nbytes))["weight_map"].values())
    except (MilepostError, AttributeError, LookupError, TypeError, ValueError):
        return set()


def _facts(storage: Storage, shard: str) -> dict[str, Fact]:
    """What a shard that was just written says of its arrays, checksums included."""
    with Reader(storage, shard) as reader:
        return {name: Fact(entry.spec, entry.kind, entry.checksum or 0) for name, entry in reader.index.entries.items()}


def _remove(storage: Storage, names: Sequence[str]) -> None:
    for name in names:
        with suppress(MilepostError):
            storage.remove(name)


class _Json:
    """An object of JSON as a file laid out."""

    def __init__(self, value: dict[str, Any]) -> None:
        self._text = json.dumps(value, indent=2, ensure_ascii=False).encode()
        self.nbytes = len(self._text)

    def chunks(self, _: object = None) -> Iterator[bytes | memoryview]:
        yield self._text

    def release(self) -> None:
        """Nothing is held."""
