"""A module <-> named tensors. Optimizers, files and policies are not known here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from milepost.errors import LoadError, MismatchError, NothingLoadedError
from milepost.state.names import match
from milepost.state.report import Cast, LoadReport, Mismatch, Prepared, Renamed, fold, refuse_leftovers
from milepost.state.snapshot import Snapshot
from milepost.state.values import unpack

EXTRA = "extra"
"""The kind of entries that stand beside the network's tensors, and where the JSON keeps what `get_extra_state` returns
(for a module beside the network with its prefix behind)."""


def parameter_names(module: nn.Module, prefix: str = "") -> dict[int, str]:
    """The name of each parameter, by identity; of tied ones the first name."""
    return {id(parameter): prefix + name for name, parameter in module.named_parameters()}


def take(module: nn.Module, snapshot: Snapshot, prefix: str = "") -> None:
    """Add the module's state to the snapshot: parameters, persistent buffers, extra state; tied tensors once.

    Args:
        module: The module.
        snapshot: Where to.
        prefix: What the names begin with, for a module beside the network; its entries are of the kind `EXTRA`.
    """
    if prefix:
        snapshot.state[EXTRA + prefix] = {}  # even if nothing comes into it, it says that this part is there
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    first_names: dict[int, str] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        full = prefix + name
        if not isinstance(value, torch.Tensor):
            snapshot.state.setdefault(EXTRA + prefix, {})[name] = snapshot.pack(value, full, EXTRA)
        elif id(value) in first_names:
            snapshot.alias(full, first_names[id(value)])
        else:
            first_names[id(value)] = full
            kind = "parameter" if name in parameters else "buffer"
            snapshot.keep(full, EXTRA if prefix else kind, value)


def prepare(
    module: nn.Module,
    offered: Collection[str],
    fetch: Callable[[str], object],
    *,
    extra: Mapping[str, Any],
    fetch_extra: Callable[[str], torch.Tensor],
    strict: bool,
    where: str,
) -> Prepared:
    """Read and check everything that a module is to be loaded with; it changes when the result is applied.

    Args:
        module: The target.
        offered: The checkpoint's names that a network may have.
        fetch: Gives the value of an offered name.
        extra: What modules returned from `get_extra_state` when they were saved, packed, by name.
        fetch_extra: Gives a tensor that `extra` refers to.
        strict: Whether every name of both sides must fit, without conversion.
        where: The checkpoint, for messages.

    Raises:
        MismatchError: A shape differs, or a dtype that cannot be converted without loss of range.
        NothingLoadedError: No name fits.
        LoadError: The module has tensors without memory; or `strict`, and a name of either side is left over.
    """
    target = type(module).__name__
    where = f"{where} into {target}"
    places = module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in places.items() if isinstance(value, torch.Tensor)}
    _refuse_without_memory(where, tensors)
    pairs = match(tensors, offered)
    if tensors and not pairs:
        raise NothingLoadedError(
            where,
            found="names like " + ", ".join(fold(offered)[:3]) if offered else "no names",
            expected="names like " + ", ".join(fold(tensors)[:3]),
            remedy="Check that the checkpoint is of this network.",
        )
    values: dict[str, Any] = {}
    cast, mismatched = [], []
    for name, found in pairs.items():
        value = fetch(found)
        problem = _problem(name, value, tensors[name], strict=strict)
        if problem is not None:
            mismatched.append(problem)
            continue
        assert isinstance(value, torch.Tensor)  # else there was a problem
        values[name] = value
        if value.dtype != tensors[name].dtype:
            cast.append(Cast(name, str(value.dtype), str(tensors[name].dtype)))
    extra_pairs = match([name for name in places if name not in tensors], extra)
    values |= {name: unpack(extra[found], fetch_extra) for name, found in extra_pairs.items()}
    pairs |= extra_pairs
    used = set(pairs.values())
    report = LoadReport(
        target,
        loaded=tuple(values),
        missing=tuple(name for name in places if name not in pairs),
        unexpected=tuple(name for name in [*offered, *extra] if name not in used),
        mismatched=tuple(mismatched),
        cast=tuple(cast),
        renamed=tuple(Renamed(found, name) for name, found in pairs.items() if name != found),
    )
    if mismatched:
        raise MismatchError(
            where,
            found=f"{len(mismatched)} entries that do not fit: " + "; ".join(fold(map(str, mismatched))),
            expected="the shape and a compatible dtype",
            remedy="Build the network as it was saved, or leave the entries out with filter_prefix.",
        )
    if strict:
        refuse_leftovers(report, where)
    return Prepared(report, lambda: module.load_state_dict(values, strict=False))


def _refuse_without_memory(where: str, tensors: Mapping[str, torch.Tensor]) -> None:
    bare = [name for name, tensor in tensors.items() if is_lazy(tensor) or tensor.is_meta]
    if bare:
        raise LoadError(
            where,
            found="tensors without memory (lazy, or on the meta device): " + ", ".join(fold(bare)),
            expected="a network that can be loaded in place",
            remedy="Run it once (lazy modules), or give it memory with to_empty(device=...).",
        )


def _problem(name: str, value: object, place: torch.Tensor, *, strict: bool) -> Mismatch | None:
    if not isinstance(value, torch.Tensor):
        return Mismatch(name, f"a {type(value).__name__}", "a tensor")
    if value.shape != place.shape:
        return Mismatch(name, str(tuple(value.shape)), str(tuple(place.shape)))
    if value.dtype == place.dtype:
        return None
    if strict or _family(value.dtype) is None or _family(value.dtype) != _family(place.dtype):
        return Mismatch(name, str(value.dtype), str(place.dtype))
    if not _survives(value, place.dtype):
        return Mismatch(name, f"{value.dtype} values out of range", str(place.dtype))
    return None


def _family(dtype: torch.dtype) -> str | None:
    """Dtypes of one family can be converted into each other; a bool is neither."""
    if dtype.is_floating_point:
        return "float"
    if dtype.is_complex:
        return "complex"
    return None if dtype == torch.bool else "integer"


def _survives(value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a conversion keeps the range: integers their value, finite floats finite."""
    converted = value.to(dtype)
    if _family(dtype) == "integer":
        return torch.equal(converted.to(value.dtype), value)
    return torch.equal(torch.isfinite(converted), torch.isfinite(value))
