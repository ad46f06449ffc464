"""`save_checkpoint`, `load_checkpoint`, `load_param_into_net`: one file, by hand. Runs and policies are elsewhere."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from milepost._version import __version__
from milepost.engine.reader import Reader
from milepost.engine.writer import write
from milepost.errors import (
    NothingLoadedError,
    SettingError,
    SettingTypeError,
    UnsupportedStateError,
)
from milepost.format.ckpt import plan
from milepost.parameters import Parameters, no_part, sound
from milepost.state import modules, optimizers
from milepost.state.names import has_prefix
from milepost.state.report import LoadReport, Prepared, fold
from milepost.state.snapshot import Snapshot
from milepost.storage.base import Stat, Storage
from milepost.storage.local import LocalStorage

SUFFIX = ".ckpt"
NETWORK_KINDS = frozenset({"parameter", "buffer", "unknown"})
"""Kinds of entries that a network is loaded from; files without kinds may hold anything, so those are tried too."""


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
    path = _path(ckpt_file_name)
    if path.suffix != SUFFIX:
        path = path.with_name(path.name + SUFFIX)
    snapshot = Snapshot()
    facts: dict[str, Any] = {}
    if isinstance(save_obj, nn.Module):
        modules.take(save_obj, snapshot)
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
    for name, value in (append_dict or {}).items():
        _keep(snapshot, name, "appended", value)
    store(LocalStorage(path.parent), path.name, snapshot, facts)
    return path


def load_checkpoint(
    ckpt_file_name: str | os.PathLike[str],
    net: nn.Module | None = None,
    strict_load: bool = False,
    filter_prefix: str | Iterable[str] | None = None,
    specify_prefix: str | Iterable[str] | None = None,
    *,
    part: str = "",
) -> Parameters:
    """Open a checkpoint of Milepost or MindSpore and, if a network is given, load it.

    Args:
        ckpt_file_name: The file.
        net: A module to load, or None to only read.
        strict_load: Whether every name of network and checkpoint must fit, without conversion of dtypes.
        filter_prefix: Names to leave out: these and everything below them (``conv1`` is not above ``conv10``).
        specify_prefix: Names to keep: only these and everything below them.
        part: Of a checkpoint with several modules, the name of the one that is meant; by default the network.

    Returns:
        The parameters by name; with a network, their `report` says what was loaded.

    Raises:
        CheckpointNotFoundError: No such file.
        NotACheckpointError: The file is something else.
        DamagedCheckpointError: The file's bytes are not what was saved.
        NothingLoadedError: There is no such part.
        LoadError: The checkpoint does not fit the network (as `load_param_into_net`).

    Example:
        >>> import torch, tempfile, os
        >>> path = save_checkpoint(torch.nn.Linear(3, 2), os.path.join(tempfile.mkdtemp(), "linear.ckpt"))
        >>> parameters = load_checkpoint(path, net=torch.nn.Linear(3, 2))
        >>> print(parameters.report)
        Linear: 2 loaded
    """
    path = _path(ckpt_file_name)
    kept, dropped = _prefixes("specify_prefix", specify_prefix), _prefixes("filter_prefix", filter_prefix)
    if not isinstance(part, str):
        raise SettingTypeError("part", found=repr(part), expected="a name", remedy="Leave it out for the network.")
    parameters = open_checkpoint(LocalStorage(path.parent), path.name)
    if part:
        parameters = parameters.part(part)
    _select(parameters, kept, dropped)
    if net is not None:
        parameters.report = _load(net, parameters, strict=strict_load)
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
    return _load(net, parameter_dict, strict=strict_load)


def _load(net: nn.Module | Optimizer, parameters: Mapping[str, Any], *, strict: bool) -> LoadReport:
    prepared = prepare(net, parameters, strict=strict)
    report = prepared.report
    if report.missing:
        # Told before anything changes: where warnings are errors, nothing has.
        warnings.warn(
            f"{report.target}: {len(report.missing)} of its entries were not loaded: {', '.join(fold(report.missing))}",
            stacklevel=3,
        )
    prepared.apply()
    return report


def prepare(
    target: nn.Module | Optimizer,
    parameters: Mapping[str, Any],
    *,
    strict: bool,
    names: Mapping[int, str] = MappingProxyType({}),
    part: str = "",
) -> Prepared:
    """Read and check a load, as `load_param_into_net`; the target changes when the result is applied.

    Args:
        target: A module or an optimizer.
        parameters: What to load.
        strict: Whether everything must fit.
        names: For an optimizer, the network's parameter names by identity.
        part: For a module, which of those stored beside the network is meant; for an optimizer, its key.
    """
    if not isinstance(target, nn.Module | Optimizer):
        raise SettingTypeError(
            "net",
            found=f"a {type(target).__name__}",
            expected="a torch.nn.Module or torch.optim.Optimizer",
            remedy="Pass the object to load into first, the parameters second.",
        )
    if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
        raise SettingTypeError(
            "parameter_dict",
            found=f"a {type(parameters).__name__}",
            expected="a mapping name -> tensor, such as load_checkpoint returns",
            remedy="To load a file, use load_checkpoint(path, net=...).",
        )
    # A tensor made in inference mode could not be trained.
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(target, Optimizer):
            return _prepare_optimizer(target, parameters, strict=strict, names=names, part=part)
        return _prepare_module(target, parameters, strict=strict, part=part)


def _prepare_optimizer(
    optimizer: Optimizer, parameters: Mapping[str, Any], *, strict: bool, names: Mapping[int, str], part: str
) -> Prepared:
    if not isinstance(parameters, Parameters):
        return optimizers.prepare(optimizer, None, _no_tensor, names=names, strict=strict, where="parameter_dict")
    with sound(parameters.where):
        if part and part not in parameters.optimizer_keys():
            raise no_part(parameters.where, part, parameters.optimizer_keys())
        saved = parameters.metadata.get("state", {}).get(part or optimizers.OPTIMIZER)
        return optimizers.prepare(
            optimizer, saved, parameters.referred(), names=names, strict=strict, where=parameters.where
        )


def _prepare_module(module: nn.Module, parameters: Mapping[str, Any], *, strict: bool, part: str) -> Prepared:
    if not isinstance(parameters, Parameters):
        if part:
            raise no_part("parameter_dict", part, [])
        return modules.prepare(
            module,
            parameters,
            lambda name: _as_value(name, parameters[name]),
            extra={},
            fetch_extra=_no_tensor,
            strict=strict,
            where="parameter_dict",
        )
    source = parameters.part(part) if part else parameters
    with sound(source.where):
        return modules.prepare(
            module,
            [name for name in source if source.kind(name) in NETWORK_KINDS],
            lambda name: _as_value(name, source.peek(name)),
            extra=source.metadata.get("state", {}).get(modules.EXTRA, {}),
            fetch_extra=source.referred(),
            strict=strict,
            where=source.where,
        )


def store(storage: Storage, name: str, snapshot: Snapshot, facts: Mapping[str, Any]) -> Stat:
    """Write a snapshot with `facts` (JSON) as its metadata; durable when the call returns."""
    metadata = {"writer": f"milepost {__version__}", **facts, "state": snapshot.state}
    return write(storage, name, plan(list(snapshot.arrays.values()), metadata, snapshot.aliases))


def open_checkpoint(storage: Storage, name: str) -> Parameters:
    """Open a checkpoint of a storage."""
    return Parameters(Reader(storage, name))


def _path(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise SettingTypeError(
            "ckpt_file_name",
            found=repr(value),
            expected="the path of a checkpoint",
            remedy="Give a str or a Path.",
        )
    return Path(value)


def _select(parameters: Parameters, kept: list[str] | None, dropped: list[str] | None) -> None:
    if kept is None and dropped is None:
        return
    before = list(parameters)
    parameters.select(
        lambda name: (kept is None or has_prefix(name, kept)) and (dropped is None or not has_prefix(name, dropped))
    )
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
    prefixes = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
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
    elif isinstance(value, torch.Tensor | np.ndarray | np.generic | bool | int | float):
        snapshot.keep(name, kind, _as_tensor(name, value))
    else:
        raise _unusable(name, f"a {type(value).__name__}")


def _as_tensor(name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    try:
        if isinstance(value, np.ndarray):
            # torch takes neither a foreign byte order nor negative strides.
            value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        dtype = torch.float64 if isinstance(value, float) else None
        return torch.as_tensor(value, dtype=dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise _unusable(name, f"{type(value).__name__}: {error}") from error


def _as_value(name: str, value: object) -> object:
    return _as_tensor(name, value) if isinstance(value, np.ndarray | np.generic) else value


def _no_tensor(name: str) -> NoReturn:
    raise KeyError(name)


def _unusable(name: str, found: str) -> UnsupportedStateError:
    return UnsupportedStateError(
        name,
        found=found,
        expected="a tensor, an array, a number, a bool or a text",
        remedy="Convert it, or leave it out.",
    )
