"""`average`: one network from several of one architecture, weight by weight, one weight in memory at a time. No torch.

Source: Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time (https://arxiv.org/abs/2203.05482), the uniform soup.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from milepost._version import __version__
from milepost.engine.open_file import OpenFile
from milepost.engine.writer import write
from milepost.errors import MismatchError, SettingError
from milepost.format.ckpt_plan import plan
from milepost.format.dialect import DIALECT
from milepost.format.spec import Array, ArraySpec, Entry
from milepost.storage.local import LocalStorage
from milepost.values import FLOATS, decode, doubles, encode

SUFFIX = ".ckpt"
LEFT_OUT = ("optimizer", "random")


@dataclass(frozen=True, slots=True)
class Averaged:
    """What `average` wrote.

    Args:
        path: The file.
        averaged: Names whose values are averages.
        taken: Names that are no real numbers and differ among the files; their values are those of the last file.
        left_out: Names that are no part of a network: optimizer and random state.
    """

    path: Path
    averaged: Sequence[str]
    taken: Sequence[str]
    left_out: Sequence[str]


def average(
    files: Sequence[OpenFile], output: str | os.PathLike[str], on_written: Callable[[int], object] = lambda _: None
) -> Averaged:
    """Write the average of several networks, each weight summed up in double precision and rounded once.

    Real numbers are averaged, buffers too: after the average, the running statistics of batch normalization are better
    taken anew from data. Whole numbers and all else are the last file's. Optimizer and random state are left out.

    Args:
        files: Two or more open files with the same names, shapes and dtypes.
        output: The file to write, a ``.ckpt``; one of that name is replaced in one step.
        on_written: Is told of the bytes of each entry that was written.

    Raises:
        SettingError: Fewer than two files, or another suffix.
        MismatchError: The files have other names, shapes or dtypes.
        DamagedCheckpointError: A content is not as it was saved; nothing is written.
        SaveError: The file did not reach its place.

    Example:
        >>> import tempfile, torch
        >>> from milepost import load_checkpoint, save_checkpoint
        >>> from milepost.interop.files import open_file
        >>> folder = tempfile.mkdtemp()
        >>> for name, value in (("a", 1.0), ("b", 2.0)):
        ...     _ = save_checkpoint({"w": torch.tensor([value])}, f"{folder}/{name}.ckpt")
        >>> with open_file(f"{folder}/a.ckpt") as a, open_file(f"{folder}/b.ckpt") as b:
        ...     soup = average([a, b], f"{folder}/soup.ckpt")
        >>> load_checkpoint(soup.path)["w"]
        tensor([1.5000])
    """
    path = Path(output)
    if len(files) < 2 or path.suffix != SUFFIX:
        raise SettingError(
            "average",
            found=f"{len(files)} files, to be written to {path.name!r}",
            expected=f"two or more, and a file that ends with {SUFFIX}",
            remedy="Give the files to average, and a .ckpt file to write.",
        )
    last = files[-1]
    entries = {name: entry for name, entry in last.index.entries.items() if entry.kind not in LEFT_OUT}
    for file in files[:-1]:
        _check_alike(file, last, entries)
    taken: list[str] = []
    arrays = [
        Array(entry.spec, entry.kind, partial(_content, files, entry, taken, on_written)) for entry in entries.values()
    ]
    metadata: dict[str, object] = {
        "writer": f"milepost {__version__}",
        "average_of": [Path(file.where).name for file in files],
        "state": _state(last),
    }
    spoken = last.index.metadata.get(DIALECT)
    if isinstance(spoken, dict) and isinstance(spoken.get("entries"), dict):
        undo = {name: change for name, change in spoken["entries"].items() if name in entries}
        metadata[DIALECT] = {**spoken, "entries": undo}
    aliases = {name: of for name, of in last.index.aliases.items() if of in entries}
    write(LocalStorage(path.parent), path.name, plan(arrays, metadata, aliases))
    averaged = [name for name, entry in entries.items() if entry.spec.dtype in FLOATS]
    return Averaged(path, averaged, taken, [name for name in last.index.entries if name not in entries])


def _check_alike(file: OpenFile, last: OpenFile, entries: dict[str, Entry]) -> None:
    own = {name: entry.spec for name, entry in file.index.entries.items() if entry.kind not in LEFT_OUT}
    wanted = {name: entry.spec for name, entry in entries.items()}
    tied = {name: of for name, of in file.index.aliases.items() if of in own}
    differing = sorted(name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name))
    if differing or tied != {name: of for name, of in last.index.aliases.items() if of in wanted}:
        name = differing[0] if differing else "another set of tied names"
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise MismatchError(
            file.where,
            found=f"{name}: {_described(own.get(name))}{more}" if differing else name,
            expected=f"{_described(wanted.get(name))}, as in {last.where}" if differing else f"those of {last.where}",
            remedy="Average networks of one architecture. To see all differences: milepost diff.",
        )


def _described(spec: ArraySpec | None) -> str:
    return "no such entry" if spec is None else f"{spec.dtype} {list(spec.shape)}"


def _state(file: OpenFile) -> dict[str, object]:
    """What is a network's of the state: what `get_extra_state` of its modules returned."""
    state = file.index.metadata.get("state")
    return {key: each for key, each in state.items() if key.startswith("extra")} if isinstance(state, dict) else {}


def _content(
    files: Sequence[OpenFile], entry: Entry, taken: list[str], on_written: Callable[[int], object]
) -> memoryview:
    name = entry.spec.name
    if entry.spec.dtype in FLOATS:
        total = np.zeros(entry.spec.shape)
        with np.errstate(invalid="ignore", over="ignore"):  # networks that diverged
            for file in files:
                total += doubles(decode(file.read(name), entry.spec))
        content = encode(total / len(files), entry.spec.dtype)
    else:
        content = memoryview(files[-1].read(name))
        if any(file.read(name) != content for file in files[:-1]):
            taken.append(name)
    on_written(entry.nbytes)
    return content
