"""Named arrays into a file of `torch.save`: plain dicts of tensors, which `torch.load(weights_only=True)` reads.

torch wants all tensors before it writes the first, so they are maps: of the source, where a content stands there as one
run, else of a nameless file that it is written to first. So memory does not grow with the model.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

import torch

from milepost.engine.open_file import OpenFile
from milepost.errors import SaveError
from milepost.format.checksum import Checksum
from milepost.format.companion import Companion, Fact
from milepost.format.dtypes import DTYPES
from milepost.format.spec import ArraySpec
from milepost.format.text import decode_text
from milepost.interop.torch_files import COMPANION, TREE
from milepost.state.tensors import empty
from milepost.state.values import unpack
from milepost.storage.base import NewFile
from milepost.storage.local import LocalStorage, save_error

_ALIGNMENT = 64
_OVERHEAD_NBYTES = 1 << 10
"""What torch puts around each tensor, at most; only to see beforehand whether there is room."""


def write_torch(
    storage: LocalStorage, name: str, file: OpenFile, on_read: Callable[[int], object] = lambda _: None
) -> None:
    """Write what `file` holds; what came from torch as it was there, everything else as an ordered dict of tensors.

    Raises:
        NotACheckpointError: torch has no such dtype.
        SaveError: The file system refused; what had the name is as before.
    """
    nbytes = sum(entry.nbytes + _OVERHEAD_NBYTES for entry in file.index.entries.values())
    with storage.create(name, nbytes) as new:
        stream = _Stream(new)
        try:
            with tempfile.TemporaryFile(dir=storage.directory) as spool:
                torch.save(_tree(file, _mapped(file, spool, on_read)), stream)  # type: ignore[arg-type]  # it only writes
        except SaveError:
            raise
        except OSError as error:
            raise save_error(storage.where(name), error) from error
        except RuntimeError:
            if stream.error is not None:  # torch only says that writing failed
                raise stream.error from None
            raise
        new.commit()


class _Stream:
    """What torch.save writes to."""

    def __init__(self, new: NewFile) -> None:
        self._new = new
        self.error: BaseException | None = None

    def write(self, content: memoryview | bytes) -> int:
        try:
            self._new.write(content)
        except BaseException as error:
            self.error = error
            raise
        return len(content)

    def flush(self) -> None:
        """Nothing is kept back."""


def _mapped(
    file: OpenFile, spool: IO[bytes], on_read: Callable[[int], object]
) -> dict[str, tuple[Fact, torch.Tensor | str]]:
    """Every entry with its checksum, as a tensor over a map of the source or else of the spool file, or as a text."""
    facts: dict[str, Fact] = {}
    values: dict[str, memoryview | str | int] = {}
    for name, entry in file.index.entries.items():
        content = file.view(name, DTYPES[entry.spec.dtype].itemsize) if entry.spec.dtype != "str" else None
        if content is not None:
            values[name] = content
        else:
            content = memoryview(file.read(name))
            values[name] = _text_or_place(file, entry.spec, content, spool)
        checksum = Checksum.of(content) if entry.checksum is None else entry.checksum
        facts[name] = Fact(entry.spec, entry.kind, checksum)
        on_read(len(content))
        del content  # before the next one is read
    spool.flush()
    memory = memoryview(mmap.mmap(spool.fileno(), 0) if spool.tell() else b"")
    return {name: (fact, _value(file, fact.spec, values[name], memory)) for name, fact in facts.items()}


def _text_or_place(file: OpenFile, spec: ArraySpec, content: memoryview, spool: IO[bytes]) -> str | int:
    if spec.dtype == "str":
        return decode_text(content, f"{file.where}, entry {spec.name!r}")
    if content:
        spool.seek(-spool.tell() % _ALIGNMENT, os.SEEK_CUR)
    place = spool.tell()
    spool.write(content)
    return place


def _value(file: OpenFile, spec: ArraySpec, value: memoryview | str | int, memory: memoryview) -> torch.Tensor | str:
    if isinstance(value, str):
        return value
    if spec.nbytes == 0:
        return empty(file.where, spec)
    content = memory[value : value + spec.nbytes] if isinstance(value, int) else value
    flat = torch.frombuffer(content, dtype=torch.uint8)
    return flat.view(empty(file.where, spec, "meta").dtype).reshape(spec.shape)


def _tree(file: OpenFile, values: Mapping[str, tuple[Fact, torch.Tensor | str]]) -> Any:
    """What is saved: the tree that was in a file of torch, or the names with everything else beside them."""
    aliases, metadata = file.index.aliases, file.index.metadata
    if TREE in metadata:
        asked: set[str] = set()

        def take(name: str) -> torch.Tensor:
            asked.add(name)
            value = values[aliases.get(name, name)][1]
            if isinstance(value, str):
                raise TypeError(f"{name!r} is a text")
            return value

        with suppress(ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            tree = unpack(metadata[TREE], take)
            if asked == {*values, *aliases}:
                return tree
    tree = OrderedDict((name, value) for name, (_, value) in values.items())
    tree.update((name, values[target][1]) for name, target in aliases.items())
    setattr(tree, COMPANION, Companion(tuple(fact for fact, _ in values.values()), aliases, metadata).encode())
    return tree
