"""What a network is loaded from, by PyTorch's names and shapes where the checkpoint has MindSpore's. Nothing is loaded.

A name that fits as it is always wins, and only entries of which the file does not say that they are PyTorch's are ever
taken under another name. Where several could be meant, none is chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from milepost.errors import LoadError
from milepost.interop.mindspore import names
from milepost.interop.mindspore.optimizers import of_optimizers
from milepost.state.modules import Source
from milepost.state.names import match, renamed, unwrapped
from milepost.state.report import fold

TRACKED = "num_batches_tracked"
"""What MindSpore's BatchNorm does not count. It changes nothing, unless the momentum is None."""


@dataclass(frozen=True)
class Translated:
    """What `milepost.state.modules.prepare` takes.

    Args:
        source: The checkpoint, with PyTorch's shapes, and without the state of an optimizer.
        rename: From the checkpoint's names to the network's.
        kept: Names of the network that such a checkpoint never has, and that change no result.
    """

    source: Source
    rename: Mapping[str, str] | Callable[[str], str]
    kept: tuple[str, ...]


def translated(
    module: nn.Module,
    source: Source,
    foreign: Collection[str],
    rename: Mapping[str, str] | Callable[[str], str],
) -> Translated:
    """Find the entries that have MindSpore's names or shapes.

    Args:
        module: The network that is to be loaded.
        source: The checkpoint.
        foreign: Those names of the checkpoint that may be MindSpore's.
        rename: The user's own renaming, which comes first.

    Raises:
        LoadError: Several entries of the checkpoint could be meant by one name; they are listed.
    """
    if not foreign:
        return Translated(source, rename, ())
    offered = renamed(source.names, rename)
    tensors = {
        name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)
    }
    owners = names.owners(module, tensors)
    direct = match(tensors, offered)
    free = {new for new, old in offered.items() if old in foreign} - set(direct.values())
    found = _found(f"{source.where} into {type(module).__name__}", tensors, owners, direct.keys(), free)
    fitting = {name: offered[new] for name, new in {**direct, **found}.items()}
    ours = set(fitting.values())
    beside = of_optimizers(source.names) & set(foreign) - ours
    new_names = {old: new for new, old in [*offered.items(), *renamed(source.extra, rename).items()]}
    new_names |= {offered[new]: name for name, new in found.items()}
    return Translated(
        _reshaped(
            replace(source, names=[name for name in source.names if name not in beside]),
            _shapes(tensors, owners, {name: old for name, old in fitting.items() if old in foreign}, source.look),
        ),
        new_names.__getitem__,
        tuple(name for name in tensors if name not in fitting and _is_needless(name, owners, fitting, foreign)),
    )


def _found(
    where: str,
    wanted: Collection[str],
    owners: Mapping[str, nn.Module],
    direct: Collection[str],
    free: Collection[str],
) -> dict[str, str]:
    """Which of the names that are still free is meant by each that does not fit as it is."""
    families = names.places(wanted)
    found: dict[str, str] = {}
    unclear = []
    for name in wanted:
        if name in direct or name not in owners:
            continue
        hits = [other for other in names.candidates(name, owners[name], families) if other in free]
        if len(hits) > 1:
            unclear.append(f"{' or '.join(hits)} -> {name}")
        elif hits:
            found[name] = hits[0]
    unclear += _flat_recurrent(wanted, direct, free, owners)
    for hit, count in Counter(found.values()).items():
        if count > 1:
            unclear.append(f"{hit} -> {' or '.join(name for name in found if found[name] == hit)}")
    if unclear:
        raise LoadError(
            where,
            found=f"{len(unclear)} names that could be meant by others: " + "; ".join(fold(unclear)),
            expected="one for each",
            remedy='Say which with rename={"name in the checkpoint": "name in the network"}, or leave the others out '
            "with filter_prefix.",
        )
    return found


def _flat_recurrent(
    wanted: Collection[str], direct: Collection[str], free: Collection[str], owners: Mapping[str, nn.Module]
) -> list[str]:
    """Recurrent layers that MindSpore 1 saved as one weight, in an order that depends on the device that it ran on."""
    paths = {
        name.rpartition(".")[0]: None
        for name in wanted
        if name not in direct and isinstance(owners.get(name), nn.RNNBase)
    }
    flat = {path: f"{unwrapped(path)}.weight".lstrip(".") for path in paths}
    return [f"{name} -> all of {path}, in cuDNN's or in oneDNN's order" for path, name in flat.items() if name in free]


def _shapes(
    tensors: Mapping[str, torch.Tensor],
    owners: Mapping[str, nn.Module],
    fitting: Mapping[str, str],
    look: Callable[[str], Any],
) -> dict[str, tuple[int, ...]]:
    """The shapes in PyTorch of the entries that have MindSpore's, by their names in the checkpoint."""
    shapes = {}
    for name, old in fitting.items():
        shape = tuple(tensors[name].shape)
        if name in owners:
            flat = names.flat_shape(owners[name], name.rpartition(".")[2], shape)
            if flat != shape and getattr(look(old), "shape", None) == flat:
                shapes[old] = shape
    return shapes


def _is_needless(
    name: str, owners: Mapping[str, nn.Module], fitting: Mapping[str, str], foreign: Collection[str]
) -> bool:
    path, dot, entry = name.rpartition(".")
    counts_only = entry == TRACKED and getattr(owners.get(name), "momentum", None) is not None
    return counts_only and fitting.get(f"{path}{dot}running_mean") in foreign


def _reshaped(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> Source:
    """The source with other shapes for some names; their elements are as they were."""
    if not shapes:
        return source

    def shaped(name: str, value: Any) -> Any:
        return value.reshape(shapes[name]) if name in shapes else value

    def fill(places: Iterable[tuple[str, torch.Tensor]]) -> None:
        as_stored = []
        for name, place in places:
            if name not in shapes:
                as_stored.append((name, place))
            elif place.is_contiguous():
                value: Any = source.look(name)
                as_stored.append((name, place.view(value.shape)))
            else:
                place.copy_(shaped(name, source.fetch(name)))
        source.fill(as_stored)

    return replace(
        source,
        look=lambda name: shaped(name, source.look(name)),
        fetch=lambda name: shaped(name, source.fetch(name)),
        fill=fill,
    )
