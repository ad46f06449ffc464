"""`save_checkpoint`, and `store`, which every save ends in: a snapshot into a file. Nothing is loaded here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from milepost import origin
from milepost._version import __version__
from milepost.engine.writer import write
from milepost.errors import SettingError, SettingTypeError
from milepost.format.collector import paused
from milepost.format.containers import FORMATS, PLAIN, Packaging
from milepost.format.dialect import DIALECT, check_dialect
from milepost.format.encryption import DEFAULT as DEFAULT_MODE
from milepost.interop.mindspore.writing import speak
from milepost.parameters import Parameters, sound
from milepost.paths import check_path
from milepost.state import modules
from milepost.state.snapshot import Snapshot
from milepost.state.tensors import as_tensor, unusable
from milepost.storage.base import Stat, Storage
from milepost.storage.local import LocalStorage

VALUES = (torch.Tensor, np.ndarray, np.generic, bool, int, float)
"""What becomes an entry; a text does too."""


@paused()
def save_checkpoint(
    save_obj: nn.Module | Mapping[str, Any] | list[dict[str, Any]],
    ckpt_file_name: str | os.PathLike[str],
    append_dict: Mapping[str, Any] | None = None,
    *,
    format: Literal["ckpt", "safetensors"] | None = None,
    enc_key: bytes | None = None,
    enc_mode: str = DEFAULT_MODE,
    crc_check: bool = False,
    durable: bool = True,
    dialect: str | None = None,
) -> Path:
    """Save parameters to a file that Milepost and MindSpore read; it is durable when the call returns.

    Args:
        save_obj: A module (parameters and persistent buffers), a mapping name -> value, or a list of
            ``{"name": ..., "data": ...}``. Values are tensors, NumPy arrays, numbers, bools or texts.
        ckpt_file_name: The file; ``.ckpt`` (or ``.safetensors``) is appended where neither is there. A file of that
            name is replaced in one step.
        append_dict: More values, stored after the others, e.g. ``{"epoch_num": 3, "note": "warm"}``. A number is
            stored as a 64-bit scalar.
        format: ``ckpt``, or ``safetensors``: `docs/format.md` says what of it other readers see. By default what the
            file's name says.
        enc_key: The key to encrypt a `.ckpt` with, 16, 24 or 32 bytes, as MindSpore does it.
        enc_mode: How it is encrypted: ``AES-GCM``, which tells of every bit that is changed; ``AES-CBC``, ``SM4-CBC``.
        crc_check: Whether to add the CRC-32 that MindSpore checks; Milepost's own checksums are always there.
        durable: Whether to return only when the file would survive a power cut. Without, it takes as long as memory
            and not as long as the disk; it is never half there for other processes, or after a kill, all the same.
        dialect: For a module, whose names and shapes to write: as `CheckpointConfig.dialect`.

    Returns:
        The path that was written.

    Raises:
        SettingError: A dialect without a module, whose parts say what is called what.
        UnsupportedStateError: A value cannot be stored; nothing is written.
        SettingError: Settings that cannot be meant, or exclude each other; nothing is written.
        SaveError: The file system refused; a file of that name is as before.

    Example:
        >>> import torch, tempfile, os
        >>> from milepost import load_checkpoint
        >>> net = torch.nn.Linear(3, 2)
        >>> path = save_checkpoint(net, os.path.join(tempfile.mkdtemp(), "linear"), {"epoch_num": 3})
        >>> path.name, sorted(load_checkpoint(path))
        ('linear.ckpt', ['bias', 'epoch_num', 'weight'])
        >>> path = save_checkpoint(torch.nn.LayerNorm(3), path, dialect="mindspore")  # on disk: gamma and beta
        >>> sorted(load_checkpoint(path))
        ['bias', 'weight']
    """
    path = check_path("ckpt_file_name", ckpt_file_name)
    told = next((name for name in FORMATS if path.suffix == f".{name}"), None)
    packaging = Packaging(format if format is not None else told or "ckpt", enc_key, enc_mode, crc_check)
    if told is None:
        path = path.with_name(f"{path.name}.{packaging.format}")
    elif told != packaging.format:
        raise SettingError(
            "format",
            found=f"{format!r} for {path.name}",
            expected=f"{told!r}, or a name that ends in .{packaging.format}",
            remedy="Leave it out: the name says it.",
        )
    snapshot = Snapshot()
    facts: dict[str, Any] = {}
    if dialect is not None:
        check_dialect(dialect)
        if not isinstance(save_obj, nn.Module):
            raise SettingError(
                "dialect",
                found=f"a {type(save_obj).__name__} to be saved",
                expected="a module, whose parts say what is called what",
                remedy="Load the parameters into the network first, and save that.",
            )
    if isinstance(save_obj, nn.Module):
        modules.take(save_obj, snapshot)
        if dialect is not None:
            facts[DIALECT] = speak(snapshot, dialect, save_obj)
    elif isinstance(save_obj, Parameters):
        facts = _keep_parameters(snapshot, save_obj)
    else:
        for name, value in _named(save_obj):
            _keep(snapshot, name, "parameter", value)
    if append_dict is not None and not isinstance(append_dict, Mapping):
        raise SettingTypeError(
            "append_dict",
            found=f"a {type(append_dict).__name__}",
            expected="a mapping name -> value",
            remedy="Leave it out for none.",
        )
    append(snapshot, append_dict or {})
    storage = LocalStorage(path.parent)
    store(storage, path.name, snapshot, facts, packaging, is_durable=durable)
    if isinstance(save_obj, nn.Module):
        origin.saved(save_obj, storage, path.name)
    return path


def append(snapshot: Snapshot, values: Mapping[str, Any]) -> None:
    """Add values of the user's own to a snapshot.

    Raises:
        UnsupportedStateError: A value cannot be stored.
        SettingTypeError: A name is no text.
    """
    for name, value in values.items():
        _keep(snapshot, name, "appended", value)


def store(
    storage: Storage,
    name: str,
    snapshot: Snapshot,
    facts: Mapping[str, Any],
    packaging: Packaging = PLAIN,
    *,
    is_durable: bool = True,
    is_background: bool = False,
    before_commit: Callable[[], object] = lambda: None,
) -> Stat:
    """Write a snapshot with `facts` (JSON) as its metadata; durable when the call returns, unless it need not be.

    The further settings are those of `milepost.engine.writer.write`.
    """
    metadata = {"writer": f"milepost {__version__}", **facts, "state": snapshot.state}
    layout = packaging.lay_out(list(snapshot.arrays.values()), metadata, snapshot.aliases)
    return write(storage, name, layout, is_durable=is_durable, is_background=is_background, before_commit=before_commit)


def _named(save_obj: Mapping[str, Any] | list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    if isinstance(save_obj, Mapping):
        yield from save_obj.items()
        return
    if not isinstance(save_obj, list) or not all(
        isinstance(item, Mapping) and {"name", "data"} <= set(item) for item in save_obj
    ):
        raise SettingTypeError(
            "save_obj",
            found=f"a {type(save_obj).__name__}",
            expected='a module, a mapping name -> tensor, or a list of {"name": ..., "data": ...}',
            remedy="Pass one of these.",
        )
    for item in save_obj:
        yield item["name"], item["data"]


def _keep_parameters(snapshot: Snapshot, parameters: Parameters) -> dict[str, Any]:
    """Add what was loaded, as what it was; return the facts that go with it. The random state stays behind."""
    first_names: dict[int, str] = {}
    for name, value in parameters.items():
        if id(value) in first_names:
            snapshot.alias(name, first_names[id(value)])
        else:
            first_names[id(value)] = name
            _keep(snapshot, name, parameters.kind(name), value)
    with sound(parameters.where):
        state = parameters.metadata.get("state", {})
        snapshot.state.update(
            {key: value for key, value in state.items() if value is not None and not key.startswith("random")}
        )
    for name, key in parameters.beside.items():
        if name == key:
            snapshot.keep(name, modules.EXTRA, parameters.fetch_tensor(name))
        else:
            snapshot.alias(name, key)
    return {key: value for key, value in parameters.metadata.items() if key not in ("writer", "state")}


def _keep(snapshot: Snapshot, name: object, kind: str, value: object) -> None:
    if not isinstance(name, str):
        raise SettingTypeError("a name", found=repr(name), expected="a text", remedy="Name each value by a str.")
    if isinstance(value, str):
        snapshot.keep_text(name, kind, value)
    elif isinstance(value, VALUES):
        snapshot.keep(name, kind, as_tensor(name, value))
    else:
        raise unusable(name, f"a {type(value).__name__}")
