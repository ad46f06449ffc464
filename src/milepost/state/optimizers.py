"""An optimizer <-> named tensors and JSON, by the names of the parameters that it steps. Modules are not known here.

torch's own state of an optimizer goes by position, so a reordered or added parameter shifts everything behind it
(pytorch issue 1489). Here every position is saved with its parameter's name, dtype and shape, and restored by name.
Only an optimizer whose parameters' names are not known, because it was built from `parameters()` and stands alone, is
restored by the saved order, if the number and the shapes of its parameters agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch.optim import Optimizer

from milepost.errors import DamagedCheckpointError, LoadError, MismatchError, NothingLoadedError
from milepost.state.names import match
from milepost.state.report import Cast, LoadReport, Mismatch, Prepared, Renamed, fold, refuse_leftovers
from milepost.state.snapshot import Snapshot
from milepost.state.values import ENTRY, is_tagged, unpack

OPTIMIZER = "optimizer"
"""The kind of entries that are an optimizer's. Also where the JSON of a checkpoint keeps the only optimizer, and what
the names of its entries begin with; with several, each has a key of its own."""

_WHOLE = (str, bytes, set, frozenset, np.ndarray)
"""What is iterable, but one value to whoever keeps it."""


def take(optimizer: Optimizer, names: Mapping[int, str], snapshot: Snapshot, key: str = OPTIMIZER) -> None:
    """Add the optimizer's state and parameter groups to the snapshot.

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        names: The network's parameter names by identity.
        snapshot: Where to.
        key: Which of several optimizers it is: where the JSON keeps it, and what the names of its entries begin with.
    """
    parameters = parameters_of(optimizer)
    known = known_names(optimizer, names) or [f"#{place}" for place in range(len(parameters))]
    packed = optimizer.state_dict()
    groups: list[dict[str, Any]] = []
    for group in packed["param_groups"]:
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        groups.append(
            {
                "params": [known[place] for place in group["params"]],
                "options": snapshot.pack(options, f"{key}.group.{len(groups)}", OPTIMIZER),
            }
        )
    state, common = {}, {}
    for place, value in packed["state"].items():
        if isinstance(place, int):
            state[known[place]] = snapshot.pack(value, f"{key}.{known[place]}", OPTIMIZER)
        else:
            common[place] = value
    snapshot.state[key] = {
        "class": algorithm(optimizer),
        "groups": groups,
        "parameters": {
            name: [str(parameter.dtype), list(parameter.shape)]
            for name, parameter in zip(known, parameters, strict=True)
        },
        "state": state,
        "common": snapshot.pack(common, f"{key}.common", OPTIMIZER),
    }


def changed_by_step(optimizer: Optimizer) -> Iterator[torch.Tensor]:
    """Give the tensors that a step changes: the parameters, and what the optimizer keeps of them."""
    yield from parameters_of(optimizer)
    yield from _tensors(optimizer.state)


def may_step_unseen(optimizer: Optimizer) -> bool:
    """Whether steps may be part of a CUDA graph: to replay one calls no hook and moves no version counter."""
    return any(group.get("capturable") for group in optimizer.param_groups)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        else:
            yield from _tensors(item)


def select(saved: dict[str, Any], is_kept: Callable[[str], bool]) -> dict[str, Any] | None:
    """What `take` stored, for the parameters that are kept; None where none is."""
    groups = [{**group, "params": [name for name in group["params"] if is_kept(name)]} for group in saved["groups"]]
    state = {name: value for name, value in saved["state"].items() if is_kept(name)}
    return {**saved, "groups": groups, "state": state} if any(group["params"] for group in groups) else None


@dataclass(frozen=True)
class Contents:
    """Entries that can be read straight into memory, many at once.

    Args:
        look: Gives an entry as a tensor on the meta device; None for one that must be fetched.
        check: Reads entries, to see that they can be read.
        fill: Puts entries into tensors of their dtypes and shapes.
    """

    look: Callable[[str], torch.Tensor | None]
    check: Callable[[Iterable[str]], None]
    fill: Callable[[Iterable[tuple[str, torch.Tensor]]], None]


NO_CONTENTS = Contents(lambda _: None, lambda _: None, lambda _: None)


class _Unpacking:
    """State by way of `unpack`, but tensors are read together, into those that the optimizer has where they fit."""

    def __init__(self, optimizer: Optimizer, fetch: Callable[[str], torch.Tensor], contents: Contents) -> None:
        self._fetch = fetch
        self._contents = contents
        # Who has a hand in it is given the values to look at.
        self._is_kept = _takes_as_torch_does(optimizer)
        self._own: dict[str, torch.Tensor] = {}
        self._taken: set[int] = set()
        self._new: dict[str, torch.Tensor] = {}

    def unpack(self, packed: Any, own: object, parameter: torch.Tensor) -> Any:
        """The value, where the optimizer has `own` of the parameter so far."""
        if not isinstance(packed, dict):
            return unpack(packed, self._fetch)
        if not is_tagged(packed):
            mine = own if isinstance(own, Mapping) else {}
            return {key: self.unpack(item, mine.get(key), parameter) for key, item in packed.items()}
        name: Any = packed.get(ENTRY)
        is_known = name is None or name in self._own or name in self._new  # each reference has memory of its own
        found = None if is_known else self._contents.look(name)
        if found is None:
            return unpack(packed, self._fetch)
        if self._is_kept and _stays(own, parameter) and _is_like(own, found) and id(own) not in self._taken:
            self._taken.add(id(own))
            self._own[name] = own
            return own
        self._new[name] = torch.empty_like(found, device="cpu")
        return self._new[name]

    def read(self) -> None:
        """Fill the new tensors; check what will be read into those that are there."""
        self._contents.check(self._own)
        self._contents.fill(self._new.items())

    def overwrite(self, optimizer: Optimizer) -> None:
        """Fill those that are there, when the optimizer has taken them."""
        if not self._taken <= {id(tensor) for tensor in _tensors(optimizer.state)}:
            raise RuntimeError("it keeps other tensors than it was given")
        self._contents.fill(self._own.items())


def _takes_as_torch_does(optimizer: Optimizer) -> bool:
    is_torchs = type(optimizer).__module__.startswith("torch.optim.") and "load_state_dict" not in vars(optimizer)
    return is_torchs and not (
        optimizer._optimizer_load_state_dict_pre_hooks or optimizer._optimizer_load_state_dict_post_hooks
    )


def _stays(own: object, parameter: torch.Tensor) -> TypeGuard[torch.Tensor]:
    """Whether torch puts the tensor into the state as it is, instead of a copy on the parameter's device."""
    return type(own) is torch.Tensor and own.device == parameter.device and own.dtype == parameter.dtype


def _is_like(own: torch.Tensor, found: torch.Tensor) -> bool:
    return own.dtype == found.dtype and own.shape == found.shape and own.is_contiguous()


def prepare(
    optimizer: Optimizer,
    saved: dict[str, Any] | None,
    fetch: Callable[[str], torch.Tensor],
    *,
    names: Mapping[int, str],
    strict: bool,
    where: str,
    contents: Contents = NO_CONTENTS,
) -> Prepared:
    """Read and check everything that an optimizer, fresh or used, is restored from; it changes when that is applied.

    Args:
        optimizer: The target.
        saved: What `take` stored under its key, or None where there is none.
        fetch: Gives the tensor of an entry.
        names: The network's parameter names by identity, as far as the network is known.
        strict: Whether every parameter and group of both sides must be known.
        where: The checkpoint, for messages.
        contents: Reads what of the state can be read into memory; the others are fetched.

    Raises:
        NothingLoadedError: The checkpoint has no optimizer state, or none for these parameters.
        LoadError: The state is of another kind of optimizer; the parameters cannot be told apart; or `strict`, and a
            parameter or group of either side is left over.
        MismatchError: A parameter has another shape than its namesake had.
    """
    target = type(optimizer).__name__
    where = f"{where} into {target}"
    if saved is None:
        raise NothingLoadedError(
            where,
            found="no optimizer state",
            expected="the mapping that load_checkpoint returned for a checkpoint saved while training",
            remedy="Pass that mapping itself, not a plain dict made from it; weights alone restore no optimizer, and "
            "what torch.save wrote of one is loaded by its load_state_dict.",
        )
    if saved["class"] != algorithm(optimizer):
        raise LoadError(
            where,
            found=f"the state of {saved['class']}",
            expected=f"the state of {algorithm(optimizer)}",
            remedy="Build the optimizer that was saved, or start this one afresh.",
        )
    parameters = parameters_of(optimizer)
    order = [name for group in saved["groups"] for name in group["params"]]
    known = known_names(optimizer, names)
    if known is None:
        if len(parameters) != len(order):
            raise LoadError(
                where,
                found=f"{len(order)} parameters",
                expected=f"{len(parameters)}, since this optimizer does not know its parameters' names",
                remedy="Build it with named_parameters() instead of parameters(): then they are matched by name.",
            )
        target, known = f"{target}, by position", order
        pairs = dict(enumerate(order))
    else:
        found = match(known, order)
        pairs = {place: found[name] for place, name in enumerate(known) if name in found}
    if order and not pairs:
        raise NothingLoadedError(
            where,
            found="parameters like " + ", ".join(fold(order)[:3]),
            expected="parameters like " + ", ".join(fold(known)[:3]),
            remedy="Check that the checkpoint is of this network.",
        )
    _check_shapes(where, {name: parameters[place] for place, name in pairs.items()}, saved["parameters"])
    unpacking = _Unpacking(optimizer, fetch, contents)
    state = {
        place: unpacking.unpack(saved["state"][name], optimizer.state.get(parameters[place]), parameters[place])
        for place, name in pairs.items()
        if name in saved["state"]
    }
    groups, without_options = _groups(optimizer, pairs, saved["groups"], fetch)
    used = set(pairs.values())
    converted = {place: saved["parameters"][name][0] != str(parameters[place].dtype) for place, name in pairs.items()}
    report = LoadReport(
        target,
        loaded=tuple(known[place] for place in pairs),
        missing=tuple([name for place, name in enumerate(known) if place not in pairs] + without_options),
        unexpected=tuple(name for name in order if name not in used),
        cast=tuple(
            Cast(known[place], saved["parameters"][name][0], str(parameters[place].dtype))
            for place, name in pairs.items()
            if converted[place]
        ),
        renamed=tuple(Renamed(name, known[place]) for place, name in pairs.items() if name != known[place]),
    )
    if strict:
        refuse_leftovers(report, where)
    common = unpack(saved["common"], fetch)
    unpacking.read()

    def apply() -> None:
        before = optimizer.state, optimizer.param_groups
        try:
            bare = {place: _without_whole(values) for place, values in state.items()}
            optimizer.load_state_dict({"state": bare | common, "param_groups": groups})
            for place, values in state.items():
                own = optimizer.state[parameters[place]]
                own.update(_as_saved(dict(own), values, converted[place]))
            with torch.no_grad():
                unpacking.overwrite(optimizer)
        except DamagedCheckpointError:  # the file was changed since it was checked
            optimizer.state, optimizer.param_groups = before
            raise
        except BaseException as error:
            # torch looks into the state only while it takes it; it makes new dicts, so the old ones are as they were.
            optimizer.state, optimizer.param_groups = before
            if not isinstance(error, Exception) or isinstance(error, MemoryError | torch.OutOfMemoryError):
                raise
            raise LoadError(
                where,
                found=f"a state that the optimizer does not take ({type(error).__name__}: {error})",
                expected="what this optimizer keeps, as torch saves it",
                remedy="Load it with the version of torch that saved it, or start the optimizer afresh.",
            ) from error

    return Prepared(report, apply)


def _without_whole(value: Any) -> Any:
    """Replace by None what torch would take apart: it goes through whatever is iterable, also through texts."""
    if isinstance(value, dict):
        return {key: _without_whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_whole(item) for item in value)
    return None if isinstance(value, _WHOLE) else value


def _as_saved(loaded: Any, saved: Any, converted: bool) -> Any:
    """Undo what torch does to state beyond placing it.

    Floating-point state becomes of the dtype of its parameter, but its own was on purpose (unless the parameter's dtype
    is itself another now); every mapping becomes a dict.
    """
    if isinstance(saved, torch.Tensor):
        return loaded if converted or loaded.dtype == saved.dtype else saved.to(loaded.device)
    if isinstance(saved, dict):
        twin = copy(saved)
        for key, value in saved.items():
            twin[key] = _as_saved(loaded[key], value, converted)
        return twin
    if isinstance(saved, (list, tuple)):
        return type(saved)(_as_saved(*pair, converted) for pair in zip(loaded, saved, strict=True))
    return saved if isinstance(saved, _WHOLE) else loaded


def _groups(
    optimizer: Optimizer, pairs: Mapping[int, str], saved: list[dict[str, Any]], fetch: Callable[[str], torch.Tensor]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The optimizer's own groups, each with the options of the saved group that its parameters were in.

    A group whose parameters were in several groups, or in none, keeps the options that it was built with, and is named
    in the second list.
    """
    home = {name: number for number, group in enumerate(saved) for name in group["params"]}
    groups, without_options = [], []
    for number, group in enumerate(optimizer.state_dict()["param_groups"]):
        origins = {home[pairs[place]] for place in group["params"] if place in pairs}
        if not group["params"] and number < len(saved) and not saved[number]["params"]:
            origins = {number}
        if len(origins) == 1:
            options = unpack(saved[origins.pop()]["options"], fetch)
        else:
            options = {}
            without_options.append(f"the options of parameter group {number}")
        groups.append({**group, **{key: _on_device_of(group.get(key), value) for key, value in options.items()}})
    return groups, without_options


def _on_device_of(own: object, value: Any) -> Any:
    """An option that is a tensor, such as a learning rate, where the optimizer has its own: torch moves only state."""
    return value.to(own.device) if isinstance(own, torch.Tensor) and isinstance(value, torch.Tensor) else value


def _check_shapes(where: str, parameters: Mapping[str, torch.Tensor], saved: Mapping[str, list[Any]]) -> None:
    wrong = [
        Mismatch(name, str(tuple(saved[name][1])), str(tuple(parameter.shape)))
        for name, parameter in parameters.items()
        if list(parameter.shape) != saved[name][1]
    ]
    if wrong:
        raise MismatchError(
            where,
            found=f"{len(wrong)} parameters that do not fit: " + "; ".join(fold(map(str, wrong))),
            expected="the shapes that were saved",
            remedy="Build the network as it was saved, or leave the parameters out with filter_prefix; then build the "
            "optimizer over named_parameters().",
        )


def parameters_of(optimizer: Optimizer) -> list[torch.Tensor]:
    """The parameters that the optimizer steps, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def known_names(optimizer: Optimizer, names: Mapping[int, str]) -> list[str] | None:
    """The parameters' names in order: the network's, else the optimizer's own; None if any two cannot be told apart.

    What is in neither (a loss of its own, say) is called by its place.
    """
    own = [name for group in optimizer.param_groups for name in group.get("param_names", [None] * len(group["params"]))]
    parameters = parameters_of(optimizer)
    if not any(id(parameter) in names for parameter in parameters) and None in own:
        return None
    known = [
        names.get(id(parameter)) or name or f"#{place}"
        for place, (parameter, name) in enumerate(zip(parameters, own, strict=True))
    ]
    return known if len(set(known)) == len(known) else None


def algorithm(optimizer: Optimizer) -> str:
    """The class that decides what the state means: torch's own, where a class only gives it another name or form."""
    kinds = [kind for kind in type(optimizer).__mro__ if issubclass(kind, Optimizer) and kind is not Optimizer]
    own = [kind for kind in kinds if kind.__module__.startswith("torch.optim.")]
    return (own or kinds)[0].__name__
