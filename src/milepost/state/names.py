"""How the names of a checkpoint are matched with those of a target. Wrappers of a module are looked through."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WRAPPERS = re.compile(r"^(module\.)+|(?<![^.])(_orig_mod|_fsdp_wrapped_module)\.")
"""What DistributedDataParallel, torch.compile and FullyShardedDataParallel put into names."""


def unwrapped(name: str) -> str:
    """The name without what wrappers have put into it.

    >>> unwrapped("module._orig_mod.layer1.0.weight")
    'layer1.0.weight'
    """
    while (shorter := _WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def match(wanted: Iterable[str], offered: Iterable[str]) -> dict[str, str]:
    """Find for each wanted name the offered one: itself, else the only one that is equal when unwrapped.

    Where two names of either side are equal when unwrapped, neither is guessed.

    >>> match(["a.weight", "b"], ["module.a.weight", "c"])
    {'a.weight': 'module.a.weight'}
    """
    wanted, offered = list(wanted), dict.fromkeys(offered)
    pairs = {name: name for name in wanted if name in offered}
    open_names = _by_core(name for name in wanted if name not in pairs)
    open_offers = _by_core(name for name in offered if name not in pairs)
    for core, (name, *others) in open_names.items():
        offers = open_offers.get(core, [])
        if not others and len(offers) == 1:
            pairs[name] = offers[0]
    return {name: pairs[name] for name in wanted if name in pairs}


def _by_core(names: Iterable[str]) -> dict[str, list[str]]:
    cores: dict[str, list[str]] = {}
    for name in names:
        cores.setdefault(unwrapped(name), []).append(name)
    return cores


def has_prefix(name: str, prefixes: Iterable[str]) -> bool:
    """Whether `name` is one of `prefixes` or lies below one; ``conv1`` is above ``conv1.weight``, not ``conv10``.

    >>> has_prefix("conv1.weight", ["conv1"]), has_prefix("conv10.weight", ["conv1"])
    (True, False)
    """
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)
