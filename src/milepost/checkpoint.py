"""`save_checkpoint`, `load_checkpoint`, `load_param_into_net`: one file, by hand. Runs and policies are elsewhere."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from milepost._version import __version__
from milepost.engine.reader import Reader
from milepost.engine.writer import write
from milepost.errors import NothingLoadedError, SettingError, SettingTypeError, UnsupportedStateError
from milepost.format.ckpt import decode_text, plan
from milepost.state import modules, optimizers
from milepost.state.names import has_prefix
from milepost.state.report import LoadReport, Prepared, fold
from milepost.state.snapshot import Snapshot
from milepost.state.tensors import bytes_of, empty
from milepost.state.values import unpack
from milepost.storage.base import Stat, Storage
from milepost.storage.local import LocalStorage

SUFFIX = ".ckpt"
NETWORK_KINDS = frozenset({"parameter", "buffer", "unknown"})
"""Kinds of entries that a network is loaded from; files without kinds may hold anything, so those are tried too."""


class Parameters(MutableMapping[str, "torch.Tensor | str"]):
    """What `load_checkpoint` returns: name -> tensor, read and checked when it is first asked for.

    Names can be removed and set as in a dict; nothing of that reaches the file. The random state of the training is in
    the file too, but not among the names.

    Attributes:
        where: The file, for messages.
        metadata: What was stored beside the tensors: ``epoch``, ``step`` (within the epoch), ``global_step``,
            ``metrics``, ... (empty for files that store nothing).
        report: What loading did, if `load_checkpoint` was given a network; else None.
    """

    def __init__(self, reader: Reader, names: Iterable[str]) -> None:
        self._reader = reader
        self._values: dict[str, torch.Tensor | str | None] = dict.fromkeys(names)
        self.where = reader.where
        self.metadata: dict[str, Any] = dict(reader.index.metadata)
        self.report: LoadReport | None = None

    def kind(self, name: str) -> str:
        """What `name` is to the training: one of `milepost.format.spec.KINDS`."""
        if name not in self._values:
            raise KeyError(name)
        if name in self._reader.index.entries or name in self._reader.index.aliases:
            return self._reader.entry(name).kind
        return "appended"

    def fetch(self, name: str) -> torch.Tensor | str:
        """Read an entry of the file anew, whether it is among the names or not."""
        entry = self._reader.entry(name)
        if entry.spec.dtype == "str":
            return decode_text(self._reader.read(name))
        tensor = empty(self.where, entry.spec)
        self._reader.read_into(name, bytes_of(tensor))
        return tensor

    def fetch_tensor(self, name: str) -> torch.Tensor:
        """As `fetch`, for an entry that the state refers to."""
        value = self.fetch(name)
        assert isinstance(value, torch.Tensor)
        return value

    def verify(self) -> None:
        """Check every byte of every entry against its checksum, or raise `DamagedCheckpointError`."""
        self._reader.verify()

    def state(self, key: str) -> Any:
        """Rebuild a part of the state that is not tensors by itself, e.g. ``random``; None where there is none."""
        packed = self.metadata.get("state", {}).get(key)
        return None if packed is None else unpack(packed, self.fetch_tensor)

    def __getitem__(self, name: str) -> torch.Tensor | str:
        value = self._values[name]
        if value is None:
            # Tied names give one tensor, as they did when they were saved.
            target = self._reader.index.aliases.get(name, name)
            value = self._values.get(target)
            value = self.fetch(name) if value is None else value
            self._values[name] = value
            if target in self._values:
                self._values[target] = value
        return value

    def __setitem__(self, name: str, value: torch.Tensor | str) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Parameters of {self.where}: {len(self)} names>"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"  {line}" for line in fold(self))])


def save_checkpoint(
    save_obj: nn.Module | Mapping[str, Any] | list[dict[str, Any]],
    ckpt_file_name: str | os.PathLike[str],
    append_dict: Mapping[str, Any] | None = None,
) -> Path:
    """Save parameters to a file that Milepost and MindSpore read; it is durable when the call returns.

    Args:
        save_obj: A module (parameters and persistent buffers), a mapping name -> value, or a list of
            ``{"name": ..., "data": ...}``. Values are tensors, NumPy arrays, numbers, bools or texts.
        ckpt_file_name: The file; ``.ckpt`` is appended where it is missing. A file of that name is replaced in one
            step.
        append_dict: More values, stored after the others, e.g. ``{"epoch_num": 3, "note": "warm"}``. A number is
            stored as a 64-bit scalar.

    Returns:
        The path that was written.

    Raises:
        UnsupportedStateError: A value cannot be stored; nothing is written.
        SaveError: The file system refused; a file of that name is as before.

    Example:
        >>> import torch, tempfile, os
        >>> net = torch.nn.Linear(3, 2)
        >>> path = save_checkpoint(net, os.path.join(tempfile.mkdtemp(), "linear"), {"epoch_num": 3})
        >>> path.name, sorted(load_checkpoint(path))
        ('linear.ckpt', ['bias', 'epoch_num', 'weight'])
    """
    path = Path(ckpt_file_name)
    if path.suffix != SUFFIX:
        path = path.with_name(path.name + SUFFIX)
    snapshot = Snapshot()
    if isinstance(save_obj, nn.Module):
        modules.take(save_obj, snapshot)
    else:
        for name, value in _named(save_obj):
            _keep(snapshot, name, "parameter", value)
    for name, value in (append_dict or {}).items():
        _keep(snapshot, name, "appended", value)
    store(LocalStorage(path.parent), path.name, snapshot, {})
    return path


def load_checkpoint(
    ckpt_file_name: str | os.PathLike[str],
    net: nn.Module | None = None,
    strict_load: bool = False,
    filter_prefix: str | Iterable[str] | None = None,
    specify_prefix: str | Iterable[str] | None = None,
) -> Parameters:
    """Open a checkpoint of Milepost or MindSpore and, if a network is given, load it.

    Args:
        ckpt_file_name: The file.
        net: A module to load, or None to only read.
        strict_load: Whether every name of network and checkpoint must fit, without conversion of dtypes.
        filter_prefix: Names to leave out: these and everything below them (``conv1`` is not above ``conv10``).
        specify_prefix: Names to keep: only these and everything below them.

    Returns:
        The parameters by name; with a network, their `report` says what was loaded.

    Raises:
        CheckpointNotFoundError: No such file.
        NotACheckpointError: The file is something else.
        DamagedCheckpointError: The file's bytes are not what was saved.
        LoadError: The checkpoint does not fit the network (as `load_param_into_net`).

    Example:
        >>> import torch, tempfile, os
        >>> path = save_checkpoint(torch.nn.Linear(3, 2), os.path.join(tempfile.mkdtemp(), "linear.ckpt"))
        >>> parameters = load_checkpoint(path, net=torch.nn.Linear(3, 2))
        >>> print(parameters.report)
        Linear: 2 loaded
    """
    if not isinstance(ckpt_file_name, (str, os.PathLike)):
        raise SettingTypeError(
            "ckpt_file_name",
            found=f"a {type(ckpt_file_name).__name__}",
            expected="the path of a checkpoint",
            remedy="Give a str or a Path.",
        )
    path = Path(ckpt_file_name)
    parameters = open_checkpoint(LocalStorage(path.parent), path.name)
    _select(parameters, _prefixes("specify_prefix", specify_prefix), _prefixes("filter_prefix", filter_prefix))
    if net is not None:
        parameters.report = load_param_into_net(net, parameters, strict_load)
    return parameters


def load_param_into_net(
    net: nn.Module | Optimizer, parameter_dict: Mapping[str, Any], strict_load: bool = False
) -> LoadReport:
    """Load parameters into a network, or the state saved with them into an optimizer; on an error nothing has changed.

    A wrapper's part of a name (``module.``, ``_orig_mod.``, ``_fsdp_wrapped_module.``) is looked through on both sides.
    Floats are converted among each other, and integers, where no value leaves its range; the report says so. What the
    network has and the checkpoint lacks stays as it is, with a warning.

    Args:
        net: A module, or a `torch.optim.Optimizer` over parameters that were named alike (or, for one that was built
            without names, that stand in the same order).
        parameter_dict: What `load_checkpoint` returned; for a module any mapping name -> tensor or array.
        strict_load: Whether every name of both sides must fit, without conversion.

    Returns:
        The report; it also unpacks into two lists of names: not loaded, and not used.

    Raises:
        MismatchError: A shape differs, or a dtype that cannot be converted.
        NothingLoadedError: Not a single name fits, or there is no optimizer state.
        LoadError: `strict_load`, and a name of either side is left over.

    Example:
        >>> import torch
        >>> report = load_param_into_net(torch.nn.Linear(2, 1), {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
        >>> not_loaded, not_used = report
        >>> report.loaded, not_loaded, not_used
        (('weight', 'bias'), [], [])
    """
    prepared = prepare(net, parameter_dict, strict=strict_load)
    prepared.apply()
    report = prepared.report
    if report.missing:
        warnings.warn(
            f"{report.target}: {len(report.missing)} of its entries were not loaded: {', '.join(fold(report.missing))}",
            stacklevel=2,
        )
    return report


def prepare(target: nn.Module | Optimizer, parameters: Mapping[str, Any], *, strict: bool) -> Prepared:
    """Read and check a load, as `load_param_into_net`; the target changes when the result is applied."""
    where = parameters.where if isinstance(parameters, Parameters) else "parameter_dict"
    state = parameters.metadata.get("state", {}) if isinstance(parameters, Parameters) else {}
    if isinstance(target, Optimizer):
        fetch = parameters.fetch_tensor if isinstance(parameters, Parameters) else parameters.__getitem__
        return optimizers.prepare(target, state.get(optimizers.OPTIMIZER), fetch, strict=strict, where=where)
    if not isinstance(target, nn.Module):
        raise SettingTypeError(
            "net",
            found=f"a {type(target).__name__}",
            expected="a torch.nn.Module or torch.optim.Optimizer",
            remedy="Pass the object to load into first, the parameters second.",
        )
    offered = [
        name for name in parameters if not isinstance(parameters, Parameters) or parameters.kind(name) in NETWORK_KINDS
    ]
    return modules.prepare(
        target, offered, lambda name: _as_value(parameters[name]), state=state, strict=strict, where=where
    )


def store(storage: Storage, name: str, snapshot: Snapshot, facts: Mapping[str, Any]) -> Stat:
    """Write a snapshot with `facts` (JSON) as its metadata; durable when the call returns."""
    metadata = {"writer": f"milepost {__version__}", **facts, "state": snapshot.state}
    return write(storage, name, plan(list(snapshot.arrays.values()), metadata, snapshot.aliases))


def open_checkpoint(storage: Storage, name: str) -> Parameters:
    """Open a checkpoint of a storage."""
    reader = Reader(storage, name)
    index = reader.index
    names = [entry for entry in index.entries if index.entries[entry].kind != "random"]
    return Parameters(reader, [*names, *index.aliases])


def _select(parameters: Parameters, kept: list[str] | None, dropped: list[str] | None) -> None:
    before = list(parameters)
    for name in before:
        if (kept and not has_prefix(name, kept)) or (dropped and has_prefix(name, dropped)):
            del parameters[name]
    if before and not parameters:
        raise NothingLoadedError(
            parameters.where,
            found="names like " + ", ".join(fold(before)[:3]),
            expected=f"some that remain after specify_prefix={kept} and filter_prefix={dropped}",
            remedy="Check the prefixes.",
        )


def _prefixes(field: str, value: str | Iterable[str] | None) -> list[str] | None:
    if value is None:
        return None
    prefixes = [value] if isinstance(value, str) else list(value)
    if not prefixes or not all(isinstance(prefix, str) and prefix for prefix in prefixes):
        raise SettingError(
            field, found=repr(value), expected="a name or names, none of them empty", remedy="Leave it out for none."
        )
    return prefixes


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


def _keep(snapshot: Snapshot, name: str, kind: str, value: object) -> None:
    if isinstance(value, str):
        snapshot.keep_text(name, kind, value)
    elif isinstance(value, (torch.Tensor, np.ndarray, np.generic, bool, int, float)):
        snapshot.keep(name, kind, _as_tensor(value))
    else:
        raise UnsupportedStateError(
            name,
            found=f"a {type(value).__name__}",
            expected="a tensor, an array, a number, a bool or a text",
            remedy="Convert it, or leave it out.",
        )


def _as_tensor(value: Any) -> torch.Tensor:
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    return torch.as_tensor(value)


def _as_value(value: object) -> object:
    return torch.as_tensor(value) if isinstance(value, (np.ndarray, np.generic)) else value
