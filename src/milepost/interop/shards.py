"""A model that Hugging Face's libraries cut into several files, with a JSON file that says which name is in which.

Source: ``huggingface_hub.serialization.split_state_dict_into_shards_factory`` and the index files that it leads to:
``{"metadata": {...}, "weight_map": {name: file}}``. Here, too, a name in a file leads to no other folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from milepost.engine.open_file import OpenFile
from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError, NotACheckpointError, SettingError
from milepost.format import companion, strict_json
from milepost.format.spec import Entry, Index
from milepost.storage.local import LocalStorage
from milepost.storage.names import check_name

INDEX_LIMIT = 100_000_000
"""Bytes of an index; as many as a header of safetensors may have."""


class ShardedFile:
    """All shards of a model as one file; an `OpenFile`.

    Args:
        path: The index file; the shards are beside it.
        open_shard: Opens a file that is no index itself.

    Raises:
        NotACheckpointError: The file is other JSON.
        CheckpointNotFoundError: A shard is missing.
        DamagedCheckpointError: The index and the shards do not fit together.
    """

    def __init__(self, path: Path, open_shard: Callable[[Path], OpenFile]) -> None:
        self.where = str(path)
        texts, weights = _read(path)
        names = list(dict.fromkeys(weights.values()))
        with ExitStack() as stack:
            shards = {name: stack.enter_context(self._open(open_shard, path.parent, name)) for name in names}
            self._shards = {name: shards[file] for name, file in weights.items()}
            for name, shard in shards.items():
                self._compare(name, shard, {weight for weight, file in weights.items() if file == name})
            self.index = self._joined(texts, list(shards.values()))
            kinds = dict.fromkeys(shard.container for shard in shards.values())
            self.container = f"{' and '.join(kinds)}, {len(names)} shard{'s' * (len(names) > 1)}"
            self._stack = stack.pop_all()

    def _open(self, open_shard: Callable[[Path], OpenFile], folder: Path, name: str) -> OpenFile:
        try:
            return open_shard(folder / check_name(self.where, name))
        except SettingError as error:
            raise self._damaged(f"a shard called {name!r}", "the name of a file beside the index") from error
        except CheckpointNotFoundError as error:
            raise CheckpointNotFoundError(
                self.where,
                found=f"no shard {name}",
                expected="all shards beside the index",
                remedy="Fetch the model again.",
            ) from error

    def _compare(self, name: str, shard: OpenFile, expected: set[str]) -> None:
        found = {*shard.index.entries, *shard.index.aliases}
        if found != expected:
            some = ", ".join(sorted(found ^ expected)[:3])
            raise self._damaged(f"{name} with other names than the index says ({some})", "the shards of this index")

    def _joined(self, texts: Mapping[str, Any], shards: list[OpenFile]) -> Index:
        entries: dict[str, Entry] = {}
        aliases: dict[str, str] = {}
        for shard in shards:
            entries |= shard.index.entries
            aliases |= shard.index.aliases
        beside = companion.find(texts, self.where, entries)
        metadata: Mapping[str, Any] = {}
        if beside is not None:
            for fact in beside.facts:
                entry = entries[fact.spec.name]
                if (entry.spec, entry.checksum) != (fact.spec, fact.checksum):
                    raise self._damaged(
                        f"another {fact.spec.name!r} in its shard", "the one that was saved with the index"
                    )
            entries = {fact.spec.name: entries[fact.spec.name] for fact in beside.facts}
            aliases, metadata = {**aliases, **beside.aliases}, beside.metadata
        nbytes = sum(shard.index.nbytes for shard in shards)
        return Index(entries, aliases, metadata, nbytes, None, "shards")

    def _damaged(self, found: str, expected: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            self.where, found=found, expected=expected, remedy="Fetch or convert the model again, all files of it."
        )

    def entry(self, name: str) -> Entry:
        """The entry that holds the content of `name`; its places are those in its shard."""
        return self.index.entries[self.index.aliases.get(name, name)]

    def _shard(self, name: str) -> OpenFile:
        return self._shards[self.index.aliases.get(name, name)]

    def read(self, name: str) -> bytearray:
        """Return the content of `name`, checked where its shard has checksums."""
        return self._shard(name).read(self.entry(name).spec.name)

    def read_into(self, places: Iterable[tuple[str, memoryview]]) -> None:
        """Fill buffers with the contents of names, checked likewise."""
        of_shards: dict[OpenFile, list[tuple[str, memoryview]]] = {}
        for name, buffer in places:
            of_shards.setdefault(self._shard(name), []).append((self.entry(name).spec.name, buffer))
        for shard, inside in of_shards.items():
            shard.read_into(inside)

    def view(self, name: str, alignment: int) -> memoryview | None:
        """Return the content of `name` in a map of its shard, checked likewise, if it lies there as one."""
        return self._shard(name).view(self.entry(name).spec.name, alignment)

    def check(self, names: Iterable[str]) -> None:
        """Check the contents of names without keeping them."""
        of_shards: dict[OpenFile, list[str]] = {}
        for name in names:
            of_shards.setdefault(self._shard(name), []).append(self.entry(name).spec.name)
        for shard, inside in of_shards.items():
            shard.check(inside)

    def verify(self, on_checked: Callable[[int], object] = lambda _: None) -> None:
        """Check every byte of every shard, as far as they tell what it should be."""
        for shard in dict.fromkeys(self._shards.values()):
            shard.verify(on_checked)

    def close(self) -> None:
        """Close all shards."""
        self._stack.close()

    def __enter__(self) -> ShardedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The texts beside the weights, and the file of each name."""
    with LocalStorage(path.parent).open(path.name) as file:
        if file.nbytes > INDEX_LIMIT:
            raise _other(file.where, f"{file.nbytes} bytes that begin like JSON")
        text = file.read(0, file.nbytes)
        where = file.where
    try:
        index = strict_json.decode(text)
        texts, weights = index.get("metadata", {}), index["weight_map"]
        is_map = isinstance(texts, dict) and isinstance(weights, dict) and all(type(v) is str for v in weights.values())
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _other(where, f"JSON without a weight_map ({type(error).__name__}: {error!s:.80})") from error
    if not is_map or not weights:
        raise _other(where, "a weight_map that names no files")
    return texts, weights


def _other(where: str, found: str) -> NotACheckpointError:
    return NotACheckpointError(
        where,
        found=found,
        expected='a checkpoint, or the index of shards, {"weight_map": {name: file}}',
        remedy="Check the path.",
    )
