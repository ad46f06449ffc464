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

    >>> match(["a.weight", "b"], ["module.a.weight", "c"])
    {'a.weight': 'module.a.weight'}
    """
    offered = dict.fromkeys(offered)
    pairs = {name: name for name in wanted if name in offered}
    by_core: dict[str, list[str]] = {}
    for name in offered:
        if name not in pairs:
            by_core.setdefault(unwrapped(name), []).append(name)
    for name in wanted:
        candidates = by_core.get(unwrapped(name), [])
        if name not in pairs and len(candidates) == 1:
            pairs[name] = candidates[0]
    return pairs


def has_prefix(name: str, prefixes: Iterable[str]) -> bool:
    """Whether `name` is one of `prefixes` or lies below one; ``conv1`` is above ``conv1.weight``, not ``conv10``.

    >>> has_prefix("conv1.weight", ["conv1"]), has_prefix("conv10.weight", ["conv1"])
    (True, False)
    """
    return any(name == prefix or name.startswith(prefix.rstrip(".") + ".") for prefix in prefixes)
