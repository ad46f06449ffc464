"""A snapshot under MindSpore's names and in its shapes, so that MindSpore loads it by itself. Files are not known here.

Only names and shapes change, never bytes, so that what undoes it is a table; what MindSpore has and PyTorch has not is
added. MindSpore passes over the entries that it has no parameter for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from milepost.errors import UnsupportedStateError
from milepost.format.spec import Array, ArraySpec
from milepost.interop.mindspore import names as vocabulary
from milepost.interop.mindspore.optimizers import (
    LEARNING_RATE,
    MAXIMUM,
    MOMENTUM,
    POWERS,
    RULES,
    STATE_STEP,
    STEP,
    UNUSED,
    Rule,
)
from milepost.nn import Momentum
from milepost.state import optimizers
from milepost.state.snapshot import Snapshot
from milepost.state.values import ENTRY

NOT_READ = ("complex64", "complex128", "float8_e4m3fn", "float8_e5m2")
"""Types for whose sake MindSpore refuses a whole file."""

_MOMENTUM, _SGD, _ADAM, _ADAMW = RULES

Changes = dict[str, tuple[str, tuple[int, ...]]]
"""Entries' names -> MindSpore's, and the shapes that they have there."""


def speak(
    snapshot: Snapshot,
    dialect: str,
    net: nn.Module,
    optimizer: Optimizer | None = None,
    names: Mapping[int, str] | None = None,
    global_step: int | None = None,
) -> dict[str, Any]:
    """Give the entries of a snapshot the names and shapes that MindSpore has for them.

    Args:
        snapshot: What was taken of everything.
        dialect: One of `milepost.format.dialect.DIALECTS`.
        net: The network that was taken.
        optimizer: Its optimizer, if it was taken.
        names: The names of the optimizer's parameters, by identity.
        global_step: Steps of the training, where they are known.

    Returns:
        For the metadata: what `milepost.format.dialect.native` needs to undo it.

    Raises:
        UnsupportedStateError: MindSpore has no such optimizer, or could not read the file.
    """
    changes = _network(snapshot, dialect, net)
    made: list[Array] = []
    if optimizer is not None and optimizers.OPTIMIZER in snapshot.state:
        state = snapshot.state[optimizers.OPTIMIZER]
        more, made = _optimizer(optimizer, state, changes, snapshot, names or {}, global_step)
        changes = changes | more
    undo: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    for name, array in snapshot.arrays.items():
        new, shape = changes.get(name, (name, array.spec.shape))
        _check(name, new, array.spec, arrays, snapshot.aliases)
        arrays[new] = replace(array, spec=ArraySpec(new, array.spec.dtype, shape))
        if (new, shape) != (name, array.spec.shape):
            undo[new] = [name, list(array.spec.shape)]
    for array in made:
        _check(array.spec.name, array.spec.name, array.spec, arrays, snapshot.aliases)
        arrays[array.spec.name] = array
        undo[array.spec.name] = None
    aliases = {alias: changes[name][0] if name in changes else name for alias, name in snapshot.aliases.items()}
    tensors = {changes[name][0] if name in changes else name: tensor for name, tensor in snapshot.tensors.items()}
    snapshot.arrays, snapshot.tensors, snapshot.aliases = arrays, tensors, aliases
    return {"name": dialect, "entries": undo}


def _network(snapshot: Snapshot, dialect: str, net: nn.Module) -> Changes:
    """The network's own entries; tied ones are there once."""
    state = [name for name in net.state_dict(keep_vars=True) if name in snapshot.arrays]
    owners, families = vocabulary.owners(net, state), vocabulary.places(state)
    changes = {}
    for name in state:
        shape = snapshot.arrays[name].spec.shape
        if name in owners:
            new = vocabulary.spoken(name, owners[name], families, dialect)
            changes[name] = new, vocabulary.flat_shape(owners[name], name.rpartition(".")[2], shape)
    return changes


def _optimizer(
    optimizer: Optimizer,
    state: Mapping[str, Any],
    network: Changes,
    snapshot: Snapshot,
    names: Mapping[int, str],
    global_step: int | None,
) -> tuple[Changes, list[Array]]:
    """The optimizer's entries, and what MindSpore keeps beside them."""
    rule = _rule(optimizer)
    changes: Changes = {}
    made: list[Array] = []
    is_amsgrad = any(group.get("amsgrad") for group in optimizer.param_groups)
    for parameter in optimizers.parameters_of(optimizer):
        name = names.get(id(parameter), "")
        if name not in network:
            continue  # not the network's
        other, shape = network[name]
        dtype = snapshot.arrays[name].spec.dtype
        kept = state["state"].get(name, {})
        for slot, key in rule.slots.items():
            value = kept.get(key)
            if key is not None and isinstance(value, dict) and ENTRY in value:
                changes[value[ENTRY]] = f"{slot}.{other}", shape
            elif slot == UNUSED:
                has_stepped = isinstance(kept.get("momentum_buffer"), dict)
                made.append(_full(f"{slot}.{other}", dtype, shape, 0 if has_stepped else 1))
            elif slot not in rule.optional or (key == MAXIMUM and is_amsgrad):
                made.append(_full(f"{slot}.{other}", dtype, shape, 0))
    return changes, made + _once(rule, optimizer, global_step)


def _rule(optimizer: Optimizer) -> Rule:
    algorithm = "Momentum" if isinstance(optimizer, Momentum) else optimizers.algorithm(optimizer)
    rules = {"Momentum": _MOMENTUM, "SGD": _SGD, "Adam": _ADAM, "AdamW": _ADAMW}
    if algorithm not in rules:
        raise UnsupportedStateError(
            optimizers.OPTIMIZER,
            found=f"a {type(optimizer).__name__}, for which MindSpore has no equal",
            expected="one of " + ", ".join(rules),
            remedy="Save without a dialect, or the network alone.",
        )
    return rules[algorithm]


def _once(rule: Rule, optimizer: Optimizer, global_step: int | None) -> list[Array]:
    """What MindSpore's optimizer has once."""
    groups = optimizer.param_groups
    if rule is _ADAMW:
        return [_number(STATE_STEP, "int32", _steps(optimizer))]
    rates = [float(group["lr"]) for group in groups]
    made = [_number(LEARNING_RATE, "float32", rates[0])] if len(set(rates)) == 1 else []
    if len(rates) > 1:
        made += [_number(f"{LEARNING_RATE}_group_{place}", "float32", rate) for place, rate in enumerate(rates)]
    if rule is _ADAM:
        steps = _steps(optimizer)
        betas = _common("betas", groups)
        made += [_number(name, "float32", beta**steps) for name, beta in zip(POWERS, betas, strict=True)]
        global_step = steps if global_step is None else global_step
    else:
        made.append(_number(MOMENTUM, "float32", _common("momentum", groups)))
    return [_full(STEP, "int32", (1,), global_step or 0), *made]


def _common(option: str, groups: Collection[Mapping[str, Any]]) -> Any:
    """An option that MindSpore has once for all parameters."""
    values = [group[option] for group in groups]
    if any(value != values[0] for value in values):
        raise UnsupportedStateError(
            f"{optimizers.OPTIMIZER}, {option}",
            found=f"{' and '.join(map(str, values))} in several groups",
            expected="one for all parameters, as MindSpore has it",
            remedy="Save without a dialect, or the network alone.",
        )
    return values[0]


def _steps(optimizer: Optimizer) -> int:
    """The steps that were done; MindSpore counts them once for all parameters."""
    counts = {int(state["step"]) for state in optimizer.state.values() if "step" in state}
    if len(counts) > 1:
        raise UnsupportedStateError(
            f"{optimizers.OPTIMIZER}, step",
            found=f"parameters with {' and '.join(map(str, sorted(counts)))} steps",
            expected="one number for all parameters, as MindSpore counts",
            remedy="Save without a dialect, or the network alone.",
        )
    return counts.pop() if counts else 0


def _number(name: str, dtype: str, number: float) -> Array:
    return _full(name, dtype, (), number)


def _full(name: str, dtype: str, shape: tuple[int, ...], number: float) -> Array:
    """An array of one number, made when it is written."""

    def content() -> memoryview:
        full = torch.full(shape, number, dtype=getattr(torch, dtype)).reshape(-1)
        return memoryview(np.ascontiguousarray(full.view(torch.uint8).numpy()))  # type: ignore[arg-type]

    return Array(ArraySpec(name, dtype, shape), optimizers.OPTIMIZER, content)


def _check(name: str, new: str, spec: ArraySpec, arrays: Collection[str], aliases: Collection[str]) -> None:
    """Refuse what MindSpore would refuse, or take for something else."""
    if new in arrays or new in aliases:
        found, expected = f"another entry that MindSpore calls {new!r}", "a name of its own for each"
    elif spec.dtype in NOT_READ:
        found, expected = f"{spec.dtype}, for whose sake MindSpore refuses the whole file", "a type that it reads"
    elif spec.shape == (0,) and new != name:
        found, expected = "no elements, which MindSpore reads as a number", "some elements"
    else:
        return
    raise UnsupportedStateError(name, found=found, expected=expected, remedy="Save it without a dialect.")
