"""A module <-> named tensors. Optimizers, files and policies are not known here."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import nn

from milepost.errors import LoadError, MismatchError, NothingLoadedError
from milepost.state.names import match
from milepost.state.report import Cast, LoadReport, Mismatch, Prepared, Renamed, fold
from milepost.state.snapshot import Snapshot
from milepost.state.values import unpack

EXTRA = "extra"
"""Where the JSON of a checkpoint keeps what modules return from `get_extra_state`."""


def parameter_names(module: nn.Module) -> dict[int, str]:
    """The name of each parameter, by identity; of tied ones the first name."""
    return {id(parameter): name for name, parameter in module.named_parameters()}


def take(module: nn.Module, snapshot: Snapshot) -> None:
    """Add the module's state to the snapshot: parameters, persistent buffers, extra state; tied tensors once."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    first_names: dict[int, str] = {}
    extra: dict[str, Any] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if not isinstance(value, torch.Tensor):
            extra[name] = snapshot.pack(value, name, "buffer")
        elif id(value) in first_names:
            snapshot.alias(name, first_names[id(value)])
        else:
            first_names[id(value)] = name
            snapshot.keep(name, "parameter" if name in parameters else "buffer", value)
    if extra:
        snapshot.state[EXTRA] = extra


def prepare(
    module: nn.Module,
    offered: Collection[str],
    fetch: Callable[[str], object],
    *,
    state: dict[str, Any],
    strict: bool,
    where: str,
) -> Prepared:
    """Read and check everything that a module is to be loaded with; it changes when the result is applied.

    Args:
        module: The target.
        offered: The checkpoint's names that a network may have.
        fetch: Gives the value of an offered name.
        state: The checkpoint's JSON, for modules' extra state.
        strict: Whether every name of both sides must fit, without conversion.
        where: The checkpoint, for messages.

    Raises:
        MismatchError: A shape differs, or a dtype that cannot be converted without loss of range.
        NothingLoadedError: No name fits.
        LoadError: `strict`, and a name of either side is left over.
    """
    target = type(module).__name__
    places = module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in places.items() if isinstance(value, torch.Tensor)}
    pairs = match(tensors, offered)
    if tensors and not pairs:
        raise NothingLoadedError(
            f"{where} into {target}",
            found="names like " + ", ".join(fold(offered)[:3]),
            expected="names like " + ", ".join(fold(tensors)[:3]),
            remedy="Check that the checkpoint is of this network.",
        )
    values, cast, mismatched = {}, [], []
    for name, found in pairs.items():
        value = fetch(found)
        problem = _problem(name, value, tensors[name], strict=strict)
        if problem is not None:
            mismatched.append(problem)
            continue
        assert isinstance(value, torch.Tensor)
        values[name] = value
        if value.dtype != tensors[name].dtype:
            cast.append(Cast(name, str(value.dtype), str(tensors[name].dtype)))
    used = set(pairs.values())
    extra = {name: unpack(packed, lambda name: _tensor(fetch(name))) for name, packed in state.get(EXTRA, {}).items()}
    report = LoadReport(
        target,
        loaded=tuple(values),
        missing=tuple(name for name in tensors if name not in pairs),
        unexpected=tuple(name for name in offered if name not in used),
        mismatched=tuple(mismatched),
        cast=tuple(cast),
        renamed=tuple(Renamed(found, name) for name, found in pairs.items() if name != found),
    )
    _refuse(report, where, strict=strict)

    def apply() -> None:
        module.load_state_dict(values | {name: extra[name] for name in extra if name in places}, strict=False)

    return Prepared(report, apply)


def _refuse(report: LoadReport, where: str, *, strict: bool) -> None:
    if report.mismatched:
        raise MismatchError(
            f"{where} into {report.target}",
            found=f"{len(report.mismatched)} entries that do not fit: " + "; ".join(fold(map(str, report.mismatched))),
            expected="the shape and a compatible dtype",
            remedy="Build the network as it was saved, or leave the entries out with filter_prefix.",
        )
    if strict and (report.missing or report.unexpected):
        raise LoadError(
            f"{where} into {report.target}",
            found=f"missing: {fold(report.missing) or 'nothing'}, unexpected: {fold(report.unexpected) or 'nothing'}",
            expected="the same names on both sides (strict_load=True)",
            remedy="Build the network as it was saved, or load with strict_load=False and read the report.",
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


def _tensor(value: object) -> torch.Tensor:
    assert isinstance(value, torch.Tensor)
    return value
