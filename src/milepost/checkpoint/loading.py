"""`load_checkpoint`, `load_param_into_net`: from a file into a network or an optimizer. Nothing is written here."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, cast

import torch
from torch import nn
from torch.optim import Optimizer

from milepost import origin
from milepost.engine.reader import Reader
from milepost.errors import NothingLoadedError, SettingError, SettingTypeError
from milepost.format.encryption import DEFAULT as DEFAULT_MODE
from milepost.interop.files import open_file
from milepost.interop.mindspore import optimizers as foreign_optimizers
from milepost.interop.mindspore.loading import translated
from milepost.parameters import Parameters, no_part, sound
from milepost.paths import check_path
from milepost.state import modules, optimizers
from milepost.state.names import has_prefix, match, renamed, suggested
from milepost.state.report import LoadReport, Prepared, fold
from milepost.state.tensors import as_value
from milepost.state.values import unpack
from milepost.storage.base import Storage

NETWORK_KINDS = frozenset({"parameter", "buffer", "unknown"})
"""Kinds of entries that a network is loaded from; files without kinds may hold anything, so those are tried too."""


def load_checkpoint(
    ckpt_file_name: str | os.PathLike[str],
    net: nn.Module | None = None,
    strict_load: bool = False,
    filter_prefix: str | Iterable[str] | None = None,
    specify_prefix: str | Iterable[str] | None = None,
    *,
    dec_key: bytes | None = None,
    dec_mode: str = DEFAULT_MODE,
    part: str = "",
    rename: Mapping[str, str] | Callable[[str], str] | None = None,
    ignore_mismatched: bool = False,
    map_location: str | torch.device | None = None,
    mmap: bool = False,
    verify: bool = True,
) -> Parameters:
    """Open a checkpoint of Milepost, MindSpore or PyTorch and, if a network is given, load it.

    Args:
        ckpt_file_name: The file: a `.ckpt` of Milepost or MindSpore, safetensors (also the ``.index.json`` of shards),
            or a file of `torch.save`, of which nothing but plain data is read. Its bytes tell which, not its name.
        net: A module to load, or None to only read.
        strict_load: Whether every name of network and checkpoint must fit, without conversion of dtypes.
        filter_prefix: Names to leave out: these and everything below them (``conv1`` is not above ``conv10``).
        specify_prefix: Names to keep: only these and everything below them.
        dec_key: The key of an encrypted file: 16, 24 or 32 bytes.
        dec_mode: How it is encrypted: ``AES-GCM``, ``AES-CBC`` or ``SM4-CBC``.
        part: Of a checkpoint with several modules, the name of the one that is meant; by default the network.
        rename: For the network, as `load_param_into_net`; the mapping keeps the names of the file.
        ignore_mismatched: For the network, as `load_param_into_net`.
        map_location: The device of the mapping's tensors and of a network on the meta device; by default the CPU. A
            network that has memory stays where it is.
        mmap: Whether the mapping's tensors lie in a map of the file instead of memory of their own: they cost nothing
            until they are looked at, and what is written to them stays in this process. The map is safe from the file
            being replaced or removed, but not from being cut short in place, which would end the process. Contents
            that do not lie in the file as in memory (MindSpore does not align them) are read.
        verify: Whether every content is compared with its checksum when it is taken. Without, and mapped, only those
            pages of a tensor are read that are looked at: ``load_checkpoint(path, mmap=True, verify=False)["w"][:10]``.

    Returns:
        The parameters by name; with a network, their `report` says what was loaded.

    Raises:
        CheckpointNotFoundError: No such file.
        NotACheckpointError: The file is something else.
        DamagedCheckpointError: The file's bytes are not what was saved.
        DecryptionError: The file is encrypted, and does not open with this key and mode.
        NothingLoadedError: There is no such part.
        LoadError: The checkpoint does not fit the network (as `load_param_into_net`).

    Example:
        >>> import torch, tempfile, os
        >>> from milepost import save_checkpoint
        >>> path = save_checkpoint(torch.nn.Linear(3, 2), os.path.join(tempfile.mkdtemp(), "linear.ckpt"))
        >>> parameters = load_checkpoint(path, net=torch.nn.Linear(3, 2))
        >>> print(parameters.report)
        Linear: 2 loaded
          loaded: weight, bias
    """
    path = check_path("ckpt_file_name", ckpt_file_name)
    kept, dropped = _prefixes("specify_prefix", specify_prefix), _prefixes("filter_prefix", filter_prefix)
    if not isinstance(part, str):
        raise SettingTypeError("part", found=repr(part), expected="a name", remedy="Leave it out for the network.")
    device = _device(map_location)
    parameters = Parameters(open_file(path, dec_key=dec_key, dec_mode=dec_mode, verify=verify), is_mapped=mmap)
    parameters.device = device
    if part:
        parameters = parameters.part(part)
    names = _all_names(parameters)
    if kept is not None or dropped is not None:
        parameters = cast(Parameters, _selected(parameters, kept, dropped))
    _tell_unused(parameters, names, {"filter_prefix": dropped, "rename": rename if net is not None else None})
    if net is not None:
        parameters.report = _load(
            net, parameters, strict=strict_load, rename=rename, ignore_mismatched=ignore_mismatched
        )
    return parameters


def load_param_into_net(
    net: nn.Module | Optimizer,
    parameter_dict: Mapping[str, Any],
    strict_load: bool = False,
    *,
    filter_prefix: str | Iterable[str] | None = None,
    specify_prefix: str | Iterable[str] | None = None,
    rename: Mapping[str, str] | Callable[[str], str] | None = None,
    ignore_mismatched: bool = False,
) -> LoadReport:
    """Load parameters into a network, or the state saved with them into an optimizer; on an error nothing has changed.

    What a `rename`, `filter_prefix` or `specify_prefix` has that begins no name at all is told in a warning, too.

    A wrapper's part of a name (``module.``, ``_orig_mod.``, ``_fsdp_wrapped_module.``) is looked through on both sides.
    Floats are converted among each other, and integers, where no value leaves its range; the report says so. What the
    network has and the checkpoint lacks stays as it is, with a warning.

    Names and shapes of MindSpore's are translated by what the network's modules are, where a name does not fit as it is
    and the checkpoint does not say that it is PyTorch's; so is the state of MindSpore's optimizers
    (``docs/mindspore.md``). The report says what was renamed.

    From a file, each entry is read into the parameter's own memory, after all of them were checked. A network on the
    meta device gets its memory, on the CPU or where `load_checkpoint` was told to.

    Args:
        net: A module, or a `torch.optim.Optimizer` over parameters that were named alike (or, for one that was built
            without names, that stand in the same order).
        parameter_dict: What `load_checkpoint` returned; for a module any mapping name -> tensor or array.
        strict_load: Whether every name of both sides must fit, without conversion.
        filter_prefix: Names of the checkpoint to leave out: these and everything below them.
        specify_prefix: Names of the checkpoint to take: only these and everything below them.
        rename: What the checkpoint's names begin with -> what they are to begin with (``{"old.": "new."}``; of several
            the longest counts), or a function from name to name.
        ignore_mismatched: Whether what has another shape in the network stays as it is there, with a warning.

    Returns:
        The report; it also unpacks into two lists of names: not loaded, and not used.

    Raises:
        SettingError: `rename` gives two names the same new one, or settings exclude each other.
        MismatchError: A shape differs, or a dtype that cannot be converted.
        NothingLoadedError: Not a single name fits, or there is no optimizer state.
        LoadError: `strict_load`, and a name of either side is left over; or a tensor on the meta device would be; or
            several names of MindSpore's could be meant by one.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 1)
        >>> report = load_param_into_net(net, {"fc.weight": torch.ones(1, 2), "fc.bias": torch.zeros(1)},
        ...                              rename={"fc.": ""})
        >>> not_loaded, not_used = report
        >>> report.loaded, not_loaded, not_used
        (('weight', 'bias'), [], [])
        >>> norm = torch.nn.LayerNorm(2)
        >>> print(load_param_into_net(norm, {"gamma": torch.ones(2), "beta": torch.zeros(2)}))  # from MindSpore
        LayerNorm: 2 loaded
          renamed (2)
            gamma -> weight
            beta -> bias
          loaded: weight, bias
    """
    kept, dropped = _prefixes("specify_prefix", specify_prefix), _prefixes("filter_prefix", filter_prefix)
    names = _all_names(parameter_dict)
    if kept is not None or dropped is not None:
        parameter_dict = _selected(parameter_dict, kept, dropped)
    if isinstance(net, nn.Module):
        _tell_unused(parameter_dict, names, {"filter_prefix": dropped, "rename": rename})
    return _load(net, parameter_dict, strict=strict_load, rename=rename, ignore_mismatched=ignore_mismatched)


def _load(net: nn.Module | Optimizer, parameters: Mapping[str, Any], **settings: Any) -> LoadReport:
    prepared = prepare(net, parameters, **settings)
    report = prepared.report
    left = [*report.missing, *map(str, report.mismatched)]
    if left:
        # Told before anything changes: where warnings are errors, nothing has.
        warnings.warn(
            f"{report.target}: {len(left)} of its entries were not loaded: {', '.join(fold(left))}", stacklevel=3
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
    rename: Mapping[str, str] | Callable[[str], str] | None = None,
    ignore_mismatched: bool = False,
) -> Prepared:
    """Read and check a load, as `load_param_into_net`; the target changes when the result is applied.

    Args:
        target: A module or an optimizer.
        parameters: What to load.
        strict: Whether everything must fit.
        names: For an optimizer, the network's parameter names by identity.
        part: For a module, which of those stored beside the network is meant; for an optimizer, its key.
        rename: For a module, as `load_param_into_net`.
        ignore_mismatched: For a module, as `load_param_into_net`.
    """
    if not isinstance(target, nn.Module | Optimizer):
        raise SettingTypeError(
            "net",
            found=f"a {type(target).__name__}",
            expected="a torch.nn.Module or torch.optim.Optimizer",
            remedy="Pass the object to load into first, the parameters second.",
        )
    _check_mapping(parameters)
    if isinstance(target, Optimizer) and (rename is not None or ignore_mismatched):
        raise SettingError(
            "rename" if rename is not None else "ignore_mismatched",
            found="an optimizer",
            expected="a network",
            remedy="Build the optimizer over named_parameters() of the names that were saved.",
        )
    if strict and ignore_mismatched:
        raise SettingError(
            "ignore_mismatched",
            found="strict_load beside it",
            expected="one of the two",
            remedy="Choose whether everything must fit.",
        )
    # A tensor made in inference mode could not be trained.
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(target, Optimizer):
            return _prepare_optimizer(target, parameters, strict=strict, names=names, part=part)
        source, foreign = _source(parameters, part)
        ours = translated(target, source, foreign, rename or {})
        try:
            prepared = modules.prepare(
                target,
                ours.source,
                strict=strict,
                rename=ours.rename,
                ignore_mismatched=ignore_mismatched,
                kept=ours.kept,
            )
        except NothingLoadedError as error:
            remedy = None if rename else _renaming(target, source)
            if remedy is None:
                raise
            raise NothingLoadedError(error.where, found=error.found, expected=error.expected, remedy=remedy) from None
    return _remembering(target, parameters, prepared) if isinstance(parameters, Parameters) and not part else prepared


def _renaming(module: nn.Module, source: modules.Source) -> str | None:
    """Which one beginning of the names would have to be another, as a remedy; None where that is not clear."""
    tensors = {name: each for name, each in module.state_dict(keep_vars=True).items() if isinstance(each, torch.Tensor)}
    rename = suggested(tensors, source.names)
    if rename is None:
        return None
    try:
        offered = renamed(source.names, rename)
    except SettingError:  # two names would be the same
        return None
    pairs = {name: offered[found] for name, found in match(tensors, offered).items()}
    shapes = {name: getattr(source.look(found), "shape", None) for name, found in pairs.items()}
    are_fitting = all(tensors[name].shape == shape for name, shape in shapes.items())
    if not are_fitting or 2 * len(pairs) < len(tensors):
        return None
    return f"{len(pairs)} of {len(tensors)} entries fit with load_checkpoint(path, net=..., rename={rename})."


def _remembering(net: nn.Module, parameters: Parameters, prepared: Prepared) -> Prepared:
    """The load, after which `net` knows which checkpoint it holds."""

    def apply() -> None:
        prepared.apply()
        origin.loaded(net, Path(parameters.where).name, parameters.index)

    return Prepared(prepared.report, apply)


def _prepare_optimizer(
    optimizer: Optimizer, parameters: Mapping[str, Any], *, strict: bool, names: Mapping[int, str], part: str
) -> Prepared:
    if not isinstance(parameters, Parameters):
        return optimizers.prepare(optimizer, None, _no_tensor, names=names, strict=strict, where="parameter_dict")
    with sound(parameters.where):
        if part and part not in parameters.optimizer_keys():
            raise no_part(parameters.where, part, parameters.optimizer_keys())
        prepared = (
            None
            if parameters.optimizer_keys()
            else foreign_optimizers.prepare(optimizer, _foreign_entries(parameters), names=names, strict=strict)
        )
        if prepared is not None:
            return prepared
        saved = parameters.metadata.get("state", {}).get(part or optimizers.OPTIMIZER)
        return optimizers.prepare(
            optimizer,
            saved,
            parameters.referred(),
            names=names,
            strict=strict,
            where=parameters.where,
            contents=parameters.contents(),
        )


def _foreign_entries(parameters: Parameters) -> foreign_optimizers.Entries:
    names = _foreign_names(parameters)
    in_order = [name for name in parameters if name in names]
    return foreign_optimizers.Entries(parameters.where, in_order, parameters.look, parameters.fetch_tensor)


def _foreign_names(parameters: Parameters) -> set[str]:
    """The names of which the file does not say that they are PyTorch's."""
    index = parameters.index
    # One that Milepost wrote for torch has checksums, and the names that its source had.
    if index.container.startswith("torch") and all(entry.checksum is None for entry in index.entries.values()):
        return set()
    return {name for name in parameters if parameters.kind(name) == "unknown"}


def _source(parameters: Mapping[str, Any], part: str) -> tuple[modules.Source, Collection[str]]:
    """What a module is loaded from, and those of its names that may be another framework's."""
    if not isinstance(parameters, Parameters):
        if part:
            raise no_part("parameter_dict", part, [])
        values = {name: as_value(name, parameters[name]) for name in parameters}
        return modules.from_values("parameter_dict", values), values.keys()
    opened = parameters.part(part) if part else parameters
    names = [name for name in opened if opened.kind(name) in NETWORK_KINDS]
    with sound(opened.where):
        extra = dict(opened.metadata.get("state", {}).get(modules.EXTRA, {}))
    fetch_tensor = opened.referred()

    def fetch_extra(name: str) -> object:
        with sound(opened.where):
            return unpack(extra[name], fetch_tensor)

    foreign = set() if part else _foreign_names(opened)
    source = modules.Source(
        where=opened.where,
        names=names,
        look=opened.look,
        check=opened.check,
        fetch=opened.peek,
        fill=opened.fill,
        extra=extra,
        fetch_extra=fetch_extra,
        device=opened.device,
    )
    return source, foreign


def open_checkpoint(storage: Storage, name: str, *, mmap: bool = False, verify: bool = True) -> Parameters:
    """Open a checkpoint of a storage."""
    return Parameters(Reader(storage, name, verify=verify), is_mapped=mmap)


def _selected(
    parameters: Mapping[str, Any], kept: list[str] | None, dropped: list[str] | None
) -> Parameters | dict[str, Any]:
    """Those whose names are kept, and not dropped; None keeps all, and drops none."""

    def is_kept(name: str) -> bool:
        return (kept is None or has_prefix(name, kept)) and (dropped is None or not has_prefix(name, dropped))

    _check_mapping(parameters)
    selected: Parameters | dict[str, Any]
    if isinstance(parameters, Parameters):
        selected = copy.copy(parameters)
        selected.select(is_kept)
    else:
        selected = {name: parameters[name] for name in parameters if is_kept(name)}
    if parameters and not selected:
        raise NothingLoadedError(
            _where(parameters),
            found="names like " + ", ".join(fold(parameters)[:3]),
            expected=f"some that remain after specify_prefix={kept} and filter_prefix={dropped}",
            remedy="Check the prefixes.",
        )
    return selected


def _tell_unused(parameters: Mapping[str, Any], names: Collection[str], settings: Mapping[str, object]) -> None:
    """Warn of a setting that begins none of the names that the parameters had: it does nothing."""
    rename, dropped = settings.get("rename"), settings.get("filter_prefix")
    unused = []
    if isinstance(rename, Mapping) and not any(name.startswith(str(each)) for each in rename for name in names):
        unused += [f"rename={rename}"] if rename else []
    if isinstance(dropped, list) and not any(has_prefix(name, dropped) for name in names):
        unused.append(f"filter_prefix={dropped}")
    if unused and names:
        warnings.warn(f"{_where(parameters)}: no name begins as {' or '.join(unused)} says", stacklevel=3)


def _all_names(parameters: object) -> list[str]:
    """The names of a mapping; and those of what a module has that is no tensor, which are no entries."""
    names = [name for name in parameters if isinstance(name, str)] if isinstance(parameters, Mapping) else []
    state = parameters.metadata.get("state") if isinstance(parameters, Parameters) else None
    extra = state.get(modules.EXTRA) if isinstance(state, dict) else None
    return [*names, *extra] if isinstance(extra, dict) else names


def _where(parameters: Mapping[str, Any]) -> str:
    return parameters.where if isinstance(parameters, Parameters) else "parameter_dict"


def _check_mapping(parameters: object) -> None:
    if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
        raise SettingTypeError(
            "parameter_dict",
            found=f"a {type(parameters).__name__}",
            expected="a mapping name -> tensor, such as load_checkpoint returns",
            remedy="To load a file, use load_checkpoint(path, net=...).",
        )


def _device(map_location: object) -> torch.device:
    if map_location is None:
        return torch.device("cpu")
    try:
        if not isinstance(map_location, str | torch.device):
            raise TypeError(f"a {type(map_location).__name__}")
        device = torch.device(map_location)
        torch.empty(0, device=device)  # fails here if this machine has none
    except (TypeError, ValueError, RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0]
    else:
        if device.type != "meta":
            return device
        reason = "a device without memory"
    raise SettingError(
        "map_location",
        found=f"{map_location!r} ({reason})",
        expected="a device of this machine, such as 'cpu' or 'cuda:0'",
        remedy="Leave it out for the CPU.",
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


def _no_tensor(name: str) -> NoReturn:
    raise KeyError(name)
