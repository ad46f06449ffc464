"""MindSpore's optimizers and torch's: whose state is whose, in one table. Files are not known here.

MindSpore keeps an optimizer's state as parameters called ``<slot>.<parameter>``, beside a few that are there once. It
does not record which optimizer it was, nor weight decay, betas, epsilon, dampening or Nesterov: these are in the
program, on both sides, and have to be the same there.

Source: the parameters of the optimizers of MindSpore 2.10.0 after some steps, and the steps that they then took.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim import Optimizer

from milepost.errors import LoadError, NothingLoadedError
from milepost.interop.mindspore import names as vocabulary
from milepost.state import optimizers
from milepost.state.names import match
from milepost.state.report import Prepared, Renamed, fold, refuse_leftovers
from milepost.state.values import ENTRY

LEARNING_RATE, STEP, MOMENTUM = "learning_rate", "global_step", "momentum"
STATE_STEP, POWERS, UNUSED, MAXIMUM = "state_step", ("beta1_power", "beta2_power"), "stat", "max_exp_avg_sq"
ONCE = re.compile(rf"{LEARNING_RATE}(_group_\d+)?|{STEP}|{MOMENTUM}|{'|'.join(POWERS)}|{STATE_STEP}|step_t")
"""What an optimizer has once."""

VANISHED = 1e-30
"""A power of a beta below this corrects nothing any more: it is lost beside 1."""


@dataclass(frozen=True)
class Rule:
    """One of MindSpore's optimizers, and which of torch's go on from its state.

    Args:
        name: What it is called there.
        slots: What a parameter's state is called there -> in torch (None: nothing in torch is like it).
        optional: Slots that need not be there.
        once: What else it has, that tells it from others.
        algorithms: torch's.
    """

    name: str
    slots: Mapping[str, str | None]
    once: frozenset[str]
    algorithms: tuple[str, ...]
    optional: frozenset[str] = frozenset()


RULES = (
    Rule("nn.Momentum", {"moments": "momentum_buffer"}, frozenset({MOMENTUM}), ("SGD",)),
    Rule("nn.SGD or experimental.optim.SGD", {"accum": "momentum_buffer", UNUSED: None}, frozenset(), ("SGD",)),
    Rule(
        "nn.Adam",
        {"moment1": "exp_avg", "moment2": "exp_avg_sq", "vhat": "max_exp_avg_sq"},
        frozenset(POWERS),
        ("Adam",),
        frozenset({"vhat"}),
    ),
    Rule(
        "experimental.optim.Adam or AdamW",
        {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "max_exp_avg_sq": "max_exp_avg_sq"},
        frozenset({STATE_STEP}),
        ("Adam", "AdamW"),
    ),
)

REFUSED = {
    frozenset({"adam_m", "adam_v"}): "nn.AdamWeightDecay, which corrects no bias, as torch's Adam and AdamW always do",
    frozenset({"momentum_buf"}): "mint.optim.SGD, which on a CPU begins its momentum anew in every step",
    frozenset({"exp_avg", "exp_avg_sq"}): "mint.optim.Adam or AdamW, which count their steps from 0 and from -1",
}
"""The slots of other optimizers -> whose they are, and why none of torch's can go on from them."""

_OTHERS = (
    "accum_update",
    "ax_",
    "lamb_m",
    "lamb_v",
    "linear",
    "mean_grad",
    "mean_square",
    "moment",
    "prev",
    "step_size",
)
_SLOTS = {slot for rule in RULES for slot in rule.slots}.union(_OTHERS, *REFUSED)


def of_optimizers(names: Iterable[str]) -> set[str]:
    """The names that an optimizer of MindSpore gave.

    >>> sorted(of_optimizers(["fc.weight", "moments.fc.weight", "learning_rate", "accum.pool"]))
    ['learning_rate', 'moments.fc.weight']
    """
    known = set(names)
    slots = {name for name in known if (parts := name.partition("."))[0] in _SLOTS and parts[2] in known}
    return slots | {name for name in known if slots and ONCE.fullmatch(name)}


@dataclass(frozen=True)
class Entries:
    """The entries of a checkpoint that may be MindSpore's.

    Args:
        where: The checkpoint, for messages.
        names: What there is, in the file's order.
        look: Gives an entry's value, which may be without data.
        fetch: Gives an entry's tensor.
    """

    where: str
    names: Collection[str]
    look: Callable[[str], Any]
    fetch: Callable[[str], torch.Tensor]


def prepare(optimizer: Optimizer, entries: Entries, *, names: Mapping[int, str], strict: bool) -> Prepared | None:
    """Read and check what MindSpore's optimizer left, as `milepost.state.optimizers.prepare`; None where there is none.

    Args:
        optimizer: The target.
        entries: The checkpoint.
        names: The network's parameter names by identity, as far as the network is known.
        strict: Whether every parameter and group of both sides must be known.

    Raises:
        LoadError: The state is of an optimizer that torch has no equal of, or of several; the target's parameters have
            no names, or betas that cannot be those of the checkpoint; several entries could be meant by one name.
    """
    where = f"{entries.where} into {type(optimizer).__name__}"
    mine = of_optimizers(entries.names)
    if not mine:
        return None
    rule = _rule(where, mine, entries.names, optimizers.algorithm(optimizer))
    known = optimizers.known_names(optimizer, names)
    if known is None:
        raise LoadError(
            where,
            found="parameters without names",
            expected="names, since MindSpore keeps the parameters in another order",
            remedy="Build the optimizer over named_parameters() of the network.",
        )
    first = next(iter(rule.slots))
    there = [name.partition(".")[2] for name in entries.names if name in mine and name.startswith(f"{first}.")]
    pairs = _pairs(where, known, {*known, *names.values()}, there)
    own = dict(zip(known, optimizers.parameters_of(optimizer), strict=True))
    shapes = _shapes(where, rule, mine, {other: own[name] for name, other in pairs.items()}, entries)
    maxima = _maxima(where, rule, mine, pairs, optimizer, known, entries)
    steps = float(_steps(where, entries, optimizer)) if "exp_avg" in rule.slots.values() else None

    def fetch(name: str) -> torch.Tensor:
        # Each parameter counts by itself, so each gets a tensor of its own; no entry has an empty name.
        return entries.fetch(name).reshape(shapes[name]) if name else torch.tensor(steps)

    def state(other: str) -> dict[str, Any]:
        if UNUSED in rule.slots and entries.fetch(f"{UNUSED}.{other}").any():
            return {}  # no step has been taken; torch then keeps nothing
        kept = {
            key: {ENTRY: f"{slot}.{other}"}
            for slot, key in rule.slots.items()
            if key is not None and (key != MAXIMUM or other in maxima)
        }
        return kept if steps is None else {"step": {ENTRY: ""}, **kept}

    left = [other for other in there if other not in pairs.values()]
    saved = {
        "class": optimizers.algorithm(optimizer),
        "groups": [{"params": [*pairs, *left], "options": _options(entries, rule)}],
        "parameters": {
            name: [str(entries.look(f"{first}.{other}").dtype), shapes[f"{first}.{other}"]]
            for name, other in pairs.items()
        },
        "state": {name: state(other) for name, other in pairs.items()},
        "common": {},
    }
    prepared = optimizers.prepare(optimizer, saved, fetch, names=names, strict=strict, where=entries.where)
    report = replace(
        prepared.report,
        missing=(*prepared.report.missing, *(["the learning rates of the groups"] if len(_rates(entries)) > 1 else [])),
        renamed=tuple(Renamed(other, name) for name, other in pairs.items() if name != other),
    )
    if strict:
        refuse_leftovers(report, where)
    return Prepared(report, prepared.apply)


def _rule(where: str, mine: Collection[str], everything: Collection[str], algorithm: str) -> Rule:
    """The one rule that says what these entries are."""
    slots = {name.partition(".")[0] for name in mine} & _SLOTS
    rules = [
        rule
        for rule in RULES
        if slots >= rule.slots.keys() - rule.optional and all(name in everything for name in rule.once)
    ]
    left = slots.difference(*(rule.slots for rule in rules))
    if len(rules) == 1 and not left and algorithm in rules[0].algorithms:
        return rules[0]
    if len(rules) == 1 and not left:
        raise LoadError(
            where,
            found=f"the state of MindSpore's {rules[0].name}",
            expected=f"the state of {algorithm}",
            remedy=f"Build torch.optim.{rules[0].algorithms[0]}, or start this one afresh.",
        )
    whose = REFUSED.get(frozenset(slots)) or (
        "several optimizers: " + ", ".join(rule.name for rule in rules)
        if len(rules) > 1
        else "another optimizer of MindSpore"
    )
    raise LoadError(
        where,
        found=f"the state ({', '.join(sorted(slots))}) of {whose}",
        expected="one of " + ", ".join(rule.name for rule in RULES),
        remedy="Leave the slots of the others out with filter_prefix, or start the optimizer afresh.",
    )


def _pairs(where: str, known: Collection[str], network: Collection[str], there: Collection[str]) -> dict[str, str]:
    """Each of the optimizer's parameters that has state in the checkpoint, and what it is called there."""
    families = vocabulary.places(network)
    offered = set(there)
    pairs = match(known, there)
    unclear = []
    for name in known:
        if name not in pairs:
            hits = [other for other in vocabulary.candidates(name, None, families) if other in offered]
            if len(hits) > 1:
                unclear.append(f"{' or '.join(hits)} -> {name}")
            elif hits:
                pairs[name] = hits[0]
    twice = [other for other, count in Counter(pairs.values()).items() if count > 1]
    unclear += [f"{other} -> {' or '.join(name for name in pairs if pairs[name] == other)}" for other in twice]
    if unclear:
        raise LoadError(
            where,
            found=f"{len(unclear)} parameters that could be meant by others: " + "; ".join(fold(unclear)),
            expected="one for each",
            remedy="Leave the others out with filter_prefix.",
        )
    if not pairs:
        raise NothingLoadedError(
            where,
            found="parameters like " + ", ".join(fold(there)[:3]),
            expected="parameters like " + ", ".join(fold(known)[:3]),
            remedy="Check that the checkpoint is of this network.",
        )
    return pairs


def _shapes(
    where: str, rule: Rule, mine: Collection[str], own: Mapping[str, torch.Tensor], entries: Entries
) -> dict[str, list[int]]:
    """The shapes in PyTorch of all entries that are kept of the parameters, which are given by their names there."""
    shapes = {}
    for other, parameter in own.items():
        for slot in rule.slots.keys() - rule.optional | {slot for slot in rule.slots if f"{slot}.{other}" in mine}:
            entry = f"{slot}.{other}"
            if entry not in mine:
                raise LoadError(
                    where,
                    found=f"no {entry!r}",
                    expected=f"all that {rule.name} keeps of a parameter",
                    remedy="Take all of its entries, or start the optimizer afresh.",
                )
            shape, found = list(parameter.shape), list(entries.look(entry).shape)
            shapes[entry] = shape if len(shape) == 3 and found == [*shape[:2], 1, shape[2]] else found
    return shapes


def _maxima(
    where: str,
    rule: Rule,
    mine: Collection[str],
    pairs: Mapping[str, str],
    optimizer: Optimizer,
    known: Collection[str],
    entries: Entries,
) -> set[str]:
    """The parameters whose largest second moments count; both sides have to agree on which these are."""
    slot = next((slot for slot, key in rule.slots.items() if key == MAXIMUM), None)
    groups = (group for group in optimizer.param_groups for _ in group["params"])
    wanted = {pairs[name] for name, group in zip(known, groups, strict=True) if name in pairs and group.get("amsgrad")}
    there = {other for other in pairs.values() if f"{slot}.{other}" in mine}
    if slot not in rule.optional:  # there in any case, and nothing but zeros where it is not used
        there = {other for other in there if other in wanted or entries.fetch(f"{slot}.{other}").any()}
    if wanted != there:
        raise LoadError(
            where,
            found=f"{'no ' if wanted - there else ''}largest second moments ({slot}) in the checkpoint",
            expected=f"amsgrad={bool(there - wanted)} in the optimizer, as in MindSpore's",
            remedy="Build the optimizer so.",
        )
    return wanted


def _rates(entries: Entries) -> list[str]:
    """The learning rates; which parameters are in the group of each is not recorded."""
    return [name for name in entries.names if name.startswith(LEARNING_RATE) and ONCE.fullmatch(name)]


def _options(entries: Entries, rule: Rule) -> dict[str, Any]:
    """The options of the parameter groups that the checkpoint tells."""
    options: dict[str, Any] = {}
    rates = _rates(entries)
    if len(rates) == 1:
        values = entries.fetch(rates[0]).reshape(-1).tolist()
        done = int(entries.fetch(STEP)) if STEP in entries.names else 0
        options["lr"] = values[min(done, len(values) - 1)]  # one for each step, or one for all
    if MOMENTUM in entries.names and "momentum_buffer" in rule.slots.values():
        options["momentum"] = float(entries.fetch(MOMENTUM))
    return options


def _steps(where: str, entries: Entries, optimizer: Optimizer) -> int:
    """How many steps were done: the number that the powers of the betas tell of."""
    if STATE_STEP in entries.names:
        return int(entries.fetch(STATE_STEP))
    powers = [float(entries.fetch(name)) for name in POWERS]
    betas = {tuple(map(float, group["betas"])) for group in optimizer.param_groups}
    stated = [int(entries.fetch(STEP))] if STEP in entries.names else []
    counts = [
        *stated,
        *(
            round(math.log(power) / math.log(beta))
            for pair in betas
            for power, beta in zip(powers, pair, strict=True)
            if power > VANISHED and 0 < beta < 1
        ),
        *(math.ceil(math.log(VANISHED) / math.log(beta)) for pair in betas for beta in pair if 0 < beta < 1),
    ]
    for count in counts:
        if all(_is_power(power, beta, count) for pair in betas for power, beta in zip(powers, pair, strict=True)):
            return count
    raise LoadError(
        where,
        found=f"betas whose powers are {powers[0]:.6g} and {powers[1]:.6g}"
        + (f" after {stated[0]} steps" if stated else ""),
        expected=f"powers of {' and of '.join(str(pair) for pair in betas)}",
        remedy="Build the optimizer with the betas that MindSpore's had.",
    )


def _is_power(power: float, beta: float, count: int) -> bool:
    """Whether `power` is what multiplying `beta` so often by itself gives in single precision.

    >>> _is_power(0.7289999127388, 0.9, 3), _is_power(0.7289999127388, 0.9, 4)
    (True, False)
    """
    if not 0 < beta < 1:
        return power == (beta**count)
    expected = count * math.log(beta)
    if power <= VANISHED:
        return expected <= math.log(VANISHED) + 1e-3 * count
    return abs(math.log(power) - expected) <= 2e-7 * (count + 1)
