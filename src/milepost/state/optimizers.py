"""An optimizer <-> named tensors and JSON, by the names of the parameters that it steps. Modules are not known here.

torch's own state of an optimizer goes by position, so a reordered or added parameter shifts everything behind it
(pytorch issue 1489). Here every position is saved with its parameter's name and shape. An optimizer built from
`named_parameters()` knows its names, and is restored by them; one built from `parameters()` does not, and is restored
by the saved order, if the number and the shapes of its parameters agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from milepost.errors import LoadError, MismatchError, NothingLoadedError
from milepost.state.names import match
from milepost.state.report import LoadReport, Mismatch, Prepared, Renamed, fold
from milepost.state.snapshot import Snapshot
from milepost.state.values import unpack

OPTIMIZER = "optimizer"
"""Where the JSON of a checkpoint keeps the optimizer, and what the names of its entries begin with."""


def take(optimizer: Optimizer, names: Mapping[int, str], snapshot: Snapshot) -> None:
    """Add the optimizer's state and parameter groups to the snapshot.

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        names: The network's parameter names by identity, for an optimizer that does not know them.
        snapshot: Where to.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = _names(optimizer)
    known = own or [names.get(id(parameter), f"#{place}") for place, parameter in enumerate(parameters)]
    packed = optimizer.state_dict()
    groups: list[dict[str, Any]] = []
    for group in packed["param_groups"]:
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append(
            {
                "params": [known[place] for place in group["params"]],
                "options": snapshot.pack(options, f"{OPTIMIZER}.group.{len(groups)}", OPTIMIZER),
            }
        )
    state, common = {}, {}
    for place, value in packed["state"].items():
        if isinstance(place, int):
            state[known[place]] = snapshot.pack(value, f"{OPTIMIZER}.{known[place]}", OPTIMIZER)
        else:
            common[place] = value
    snapshot.state[OPTIMIZER] = {
        "class": _lineage(optimizer),
        "groups": groups,
        "shapes": {known[place]: list(parameter.shape) for place, parameter in enumerate(parameters)},
        "state": state,
        "common": snapshot.pack(common, f"{OPTIMIZER}.common", OPTIMIZER),
    }


def prepare(
    optimizer: Optimizer,
    saved: dict[str, Any] | None,
    fetch: Callable[[str], torch.Tensor],
    *,
    strict: bool,
    where: str,
) -> Prepared:
    """Read and check everything that an optimizer, fresh or used, is restored from; it changes when that is applied.

    Args:
        optimizer: The target.
        saved: What `take` stored under `OPTIMIZER`, or None where there is none.
        fetch: Gives the tensor of an entry.
        strict: Whether every parameter of both sides must be known.
        where: The checkpoint, for messages.

    Raises:
        NothingLoadedError: The checkpoint has no optimizer state, or none for these parameters.
        LoadError: The state is of another kind of optimizer; the parameters cannot be told apart; or `strict`, and a
            parameter of either side is left over.
        MismatchError: A parameter has another shape than its namesake had.
    """
    target = type(optimizer).__name__
    where = f"{where} into {target}"
    if saved is None:
        raise NothingLoadedError(
            where,
            found="no optimizer state",
            expected="the mapping that load_checkpoint returned for a checkpoint saved while training",
            remedy="Pass that mapping itself, not a plain dict made from it; weights alone restore no optimizer.",
        )
    if not set(saved["class"]) & set(_lineage(optimizer)):
        raise LoadError(
            where,
            found=f"the state of {saved['class'][0]}",
            expected=f"the state of {target}",
            remedy="Build the optimizer that was saved, or start this one afresh.",
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    order = [name for group in saved["groups"] for name in group["params"]]
    names = _names(optimizer)
    if names is None:
        if len(parameters) != len(order):
            raise LoadError(
                where,
                found=f"{len(order)} parameters",
                expected=f"{len(parameters)}, since this optimizer does not know its parameters' names",
                remedy="Build it with named_parameters() instead of parameters(): then they are matched by name.",
            )
        pairs = dict(enumerate(order))
        names = order
    else:
        found = match(names, order)
        pairs = {place: found[name] for place, name in enumerate(names) if name in found}
    if order and not pairs:
        raise NothingLoadedError(
            where,
            found="parameters like " + ", ".join(fold(order)[:3]),
            expected="parameters like " + ", ".join(fold(names)[:3]),
            remedy="Check that the checkpoint is of this network.",
        )
    _check_shapes(where, {name: parameters[place] for place, name in pairs.items()}, saved["shapes"])
    used = set(pairs.values())
    report = LoadReport(
        target,
        loaded=tuple(names[place] for place in pairs),
        missing=tuple(name for place, name in enumerate(names) if place not in pairs),
        unexpected=tuple(name for name in order if name not in used),
        renamed=tuple(Renamed(name, names[place]) for place, name in pairs.items() if name != names[place]),
    )
    if strict and (report.missing or report.unexpected):
        raise LoadError(
            where,
            found=f"missing: {fold(report.missing) or 'nothing'}, unexpected: {fold(report.unexpected) or 'nothing'}",
            expected="the same parameters on both sides (strict_load=True)",
            remedy="Build the optimizer as it was saved, or load with strict_load=False and read the report.",
        )
    state = {place: unpack(saved["state"][name], fetch) for place, name in pairs.items() if name in saved["state"]}
    whole = {
        "state": state | unpack(saved["common"], fetch),
        "param_groups": _groups(optimizer, pairs, saved["groups"], fetch),
    }
    return Prepared(report, lambda: optimizer.load_state_dict(whole))


def _groups(
    optimizer: Optimizer, pairs: Mapping[int, str], saved: list[dict[str, Any]], fetch: Callable[[str], torch.Tensor]
) -> list[dict[str, Any]]:
    """The optimizer's own groups, each with the options of the saved group that its parameters were in.

    A group whose parameters were in several groups, or in none, keeps the options that it was built with.
    """
    home = {name: number for number, group in enumerate(saved) for name in group["params"]}
    groups = []
    for group in optimizer.state_dict()["param_groups"]:
        origins = {home[pairs[place]] for place in group["params"] if place in pairs}
        options = unpack(saved[origins.pop()]["options"], fetch) if len(origins) == 1 else {}
        groups.append({**group, **options})
    return groups


def _check_shapes(where: str, parameters: Mapping[str, torch.Tensor], saved: Mapping[str, list[int]]) -> None:
    wrong = [
        Mismatch(name, str(tuple(saved[name])), str(tuple(parameter.shape)))
        for name, parameter in parameters.items()
        if list(parameter.shape) != saved[name]
    ]
    if wrong:
        raise MismatchError(
            where,
            found=f"{len(wrong)} parameters that do not fit: " + "; ".join(fold(map(str, wrong))),
            expected="the shapes that were saved",
            remedy="Build the network as it was saved, or build the optimizer from the named_parameters() that fit.",
        )


def _names(optimizer: Optimizer) -> list[str] | None:
    """The parameters' names in order, if the optimizer was built from `named_parameters()`."""
    if any("param_names" not in group for group in optimizer.param_groups):
        return None
    return [name for group in optimizer.param_groups for name in group["param_names"]]


def _lineage(optimizer: Optimizer) -> list[str]:
    """The class's name and those of the optimizers that it is made from: equal state for all of them."""
    return [kind.__name__ for kind in type(optimizer).__mro__ if issubclass(kind, Optimizer) and kind is not Optimizer]
