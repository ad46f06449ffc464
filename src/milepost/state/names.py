"""How the names of a checkpoint are matched with those of a target. Wrappers of a module are looked through."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from milepost.errors import SettingError, SettingTypeError

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


def renamed(names: Iterable[str], rename: Mapping[str, str] | Callable[[str], str]) -> dict[str, str]:
    """Map each new name to the old one.

    Args:
        names: The old names.
        rename: A function from old to new, or what names may begin with -> what stands there instead (the longest of
            those that fit, once).

    Raises:
        SettingError: Two names get the same new one.
        SettingTypeError: A new name is no text.

    >>> renamed(["old.weight", "head.weight"], {"old.": "body."})
    {'body.weight': 'old.weight', 'head.weight': 'head.weight'}
    """
    new_name = rename if callable(rename) else _by_beginning(rename)
    old_names: dict[str, str] = {}
    for old in names:
        new = new_name(old)
        if not isinstance(new, str):
            raise _not_a_renaming(f"{new!r} for {old!r}")
        if new in old_names:
            raise SettingError(
                "rename",
                found=f"{new!r} as the new name of both {old_names[new]!r} and {old!r}",
                expected="a name of its own for each",
                remedy="Leave one of them out with filter_prefix, or give it another name.",
            )
        old_names[new] = old
    return old_names


def suggested(wanted: Iterable[str], offered: Iterable[str]) -> dict[str, str] | None:
    """Return the renaming by one beginning under which most offered names are wanted ones; None where none is clear.

    >>> suggested(["a.weight", "b"], ["model.a.weight", "model.b", "epoch"])
    {'model.': ''}
    >>> suggested(["encoder.w"], ["w"])
    {'': 'encoder.'}
    """
    wanted, offered = set(wanted), set(offered)
    counts = Counter((beginning, "") for name in offered for beginning, rest in _cuts(name) if rest in wanted)
    counts.update(("", beginning) for name in wanted for beginning, rest in _cuts(name) if rest in offered)
    best = counts.most_common(2)
    is_clear = len(best) == 1 or (len(best) == 2 and best[0][1] > best[1][1])
    return dict([best[0][0]]) if is_clear else None


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    """The name cut behind each of its dots."""
    yield from ((name[: dot.end()], name[dot.end() :]) for dot in re.finditer(r"\.", name))


def _by_beginning(rename: object) -> Callable[[str], str]:
    if not isinstance(rename, Mapping) or not all(isinstance(text, str) for pair in rename.items() for text in pair):
        raise _not_a_renaming(repr(rename))
    longest_first = sorted(rename, key=len, reverse=True)

    def new_name(old: str) -> str:
        for beginning in longest_first:
            if old.startswith(beginning):
                return str(rename[beginning]) + old.removeprefix(beginning)
        return old

    return new_name


def _not_a_renaming(found: str) -> SettingTypeError:
    return SettingTypeError(
        "rename",
        found=found,
        expected='a mapping such as {"old.": "new."}, or a function from a name to a name',
        remedy="Leave it out to rename nothing.",
    )


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
