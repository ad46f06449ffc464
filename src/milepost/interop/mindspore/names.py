"""What MindSpore calls a module's entries: one table per vocabulary, all else derived. Values are not known here.

Of most modules MindSpore has the same names and the same shapes: Conv2d, Conv3d and their transposed kin, Dense and
Linear, Bilinear, the recurrent layers and their cells with the gates in the same order, MultiheadAttention; and of
everything under `mindspore.mint`. What differs is here.

Source: the parameters of the cells of MindSpore 2.10.0, built and listed; of the r0.6 model zoo and of mindcv likewise.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from milepost.format.dialect import DIALECTS, MINDSPORE
from milepost.state.names import unwrapped

ENTRIES: tuple[tuple[type[nn.Module], Mapping[str, str]], ...] = (
    (
        nn.BatchNorm3d,  # a cell around a BatchNorm2d
        {
            "weight": "bn2d.gamma",
            "bias": "bn2d.beta",
            "running_mean": "bn2d.moving_mean",
            "running_var": "bn2d.moving_variance",
        },
    ),
    (
        nn.modules.batchnorm._NormBase,  # the other BatchNorms, SyncBatchNorm, InstanceNorm
        {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
    ),
    (nn.LayerNorm, {"weight": "gamma", "bias": "beta"}),
    (nn.GroupNorm, {"weight": "gamma", "bias": "beta"}),
    (nn.Embedding, {"weight": "embedding_table"}),
    (nn.PReLU, {"weight": "w"}),
)
"""Kind of module -> its entries' names in PyTorch -> in MindSpore. Of several kinds the first counts."""

BARE = {"moving_mean": "mean", "moving_variance": "variance", "w": "a"}
"""What some entries are called where the cell is not inside another one."""

FLAT = (nn.Conv1d, nn.ConvTranspose1d)
"""Kinds whose weight has four dimensions in MindSpore: a 2-dimensional kernel that is one high."""


@dataclass(frozen=True)
class Family:
    """A model whose parts are called otherwise.

    Args:
        name: Which model, and whose.
        dialect: In which dialect it is written so.
        marks: Names of parameters that such a model has, below its place in the network.
        parts: What parts are called in PyTorch -> in MindSpore.
    """

    name: str
    dialect: str
    marks: tuple[str, ...]
    parts: Mapping[str, str]


_RESNET = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight")

FAMILIES = (
    Family(
        "the encoder and decoder layers of a Transformer",
        MINDSPORE,
        ("self_attn.in_proj_weight", "linear1.weight", "linear2.weight", "norm1.weight"),
        {"linear1": "dense1", "linear2": "dense2"},
    ),
    Family(
        "ResNet of MindSpore's model zoo (r0.6)",
        DIALECTS[1],
        _RESNET,
        {"downsample": "down_sample_layer", "fc": "end_point"},
    ),
    Family("ResNet of mindcv", DIALECTS[2], _RESNET, {"downsample": "down_sample", "fc": "classifier"}),
)


def own_entry(module: nn.Module, entry: str) -> str:
    """What MindSpore calls an entry of a module.

    >>> own_entry(nn.BatchNorm2d(1), "running_var"), own_entry(nn.Linear(1, 1), "bias")
    ('moving_variance', 'bias')
    """
    for kind, table in ENTRIES:
        if isinstance(module, kind):
            return table.get(entry, entry)
    return entry


def any_entry(entry: str) -> list[str]:
    """What MindSpore may call an entry of that name, of whatever kind the module is; the same name comes first.

    >>> any_entry("running_mean")
    ['running_mean', 'bn2d.moving_mean', 'moving_mean']
    """
    return list(dict.fromkeys([entry, *(table[entry] for _, table in ENTRIES if entry in table)]))


def places(names: Collection[str]) -> dict[str, list[Family]]:
    """Where in a network the families are, by its parameters' names: place, with its dot at the end -> which."""
    found: dict[str, list[Family]] = {}
    known = {unwrapped(name) for name in names}
    for family in FAMILIES:
        first = family.marks[0]
        for name in known:
            place = name.removesuffix(first)
            is_place = name.endswith(first) and (not place or place.endswith("."))
            if is_place and all(place + mark in known for mark in family.marks):
                found.setdefault(place, []).append(family)
    return found


def paths(path: str, found: Mapping[str, Collection[Family]]) -> list[str]:
    """What MindSpore may call a module, in each family that it belongs to; the same path comes first.

    Args:
        path: The module's path in the network.
        found: What `places` returned.

    >>> families = places(["conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"])
    >>> paths("layer1.0.downsample.0", families)
    ['layer1.0.downsample.0', 'layer1.0.down_sample_layer.0', 'layer1.0.down_sample.0']
    """
    variants = {path: None}
    for place, families in found.items():
        if (path + ".").startswith(place):
            rest = path[len(place) :].split(".")
            for family in families:
                variants[place + ".".join(family.parts.get(part, part) for part in rest)] = None
    return list(variants)


def candidates(name: str, module: nn.Module | None, found: Mapping[str, Collection[Family]]) -> Iterator[str]:
    """What MindSpore may call an entry of a network, without the name itself.

    Args:
        name: The entry's name; what wrappers have put into it is looked through.
        module: The module that has the entry, or None where it is not known.
        found: What `places` returned.
    """
    bare = unwrapped(name)
    path, dot, entry = bare.rpartition(".")
    entries = any_entry(entry) if module is None else list(dict.fromkeys([entry, own_entry(module, entry)]))
    if not path:
        entries += [BARE[other] for other in entries if other in BARE]
    for variant, other in itertools.product(paths(path, found), entries):
        if variant + dot + other != bare:
            yield variant + dot + other


def spoken(name: str, module: nn.Module, found: Mapping[str, Collection[Family]], dialect: str) -> str:
    """What MindSpore calls an entry of a network in a dialect.

    >>> spoken("bn1.weight", nn.BatchNorm2d(1), {}, MINDSPORE)
    'bn1.gamma'
    """
    path, dot, entry = unwrapped(name).rpartition(".")
    chosen = {
        place: [family for family in families if family.dialect in (MINDSPORE, dialect)]
        for place, families in found.items()
    }
    own = own_entry(module, entry)
    return (paths(path, chosen)[-1] + dot if path else "") + (own if path else BARE.get(own, own))


def owners(network: nn.Module, names: Collection[str]) -> dict[str, nn.Module]:
    """The module that has each entry of a network's ``state_dict``."""
    modules = dict(network.named_modules(remove_duplicate=False))
    return {name: modules[path] for name in names if (path := name.rpartition(".")[0]) in modules}


def flat_shape(module: nn.Module, entry: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that an entry of a module has in MindSpore.

    >>> flat_shape(nn.Conv1d(2, 3, 5), "weight", (3, 2, 5))
    (3, 2, 1, 5)
    """
    return (*shape[:2], 1, *shape[2:]) if isinstance(module, FLAT) and entry == "weight" else shape
