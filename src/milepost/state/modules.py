"""A module <-> named tensors. Optimizers, files and policies are not known here."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from milepost import parallel
from milepost.errors import LoadError, MismatchError, NothingLoadedError
from milepost.state.names import match, renamed
from milepost.state.report import Cast, LoadReport, Mismatch, Prepared, Renamed, fold, refuse_leftovers
from milepost.state.snapshot import Snapshot

EXTRA = "extra"
"""The kind of entries that stand beside the network's tensors, and where the JSON keeps what `get_extra_state` returns
(for a module beside the network with its prefix behind)."""


def parameter_names(module: nn.Module, prefix: str = "") -> dict[int, str]:
    """The name of each parameter, by identity; of tied ones the first name."""
    return {id(parameter): prefix + name for name, parameter in module.named_parameters()}


def take(module: nn.Module, snapshot: Snapshot, prefix: str = "") -> None:
    """Add the module's state to the snapshot: parameters, persistent buffers, extra state; tied tensors once.

    Args:
        module: The module.
        snapshot: Where to.
        prefix: What the names begin with, for a module beside the network; its entries are of the kind `EXTRA`.
    """
    if prefix:
        snapshot.state[EXTRA + prefix] = {}  # even if nothing comes into it, it says that this part is there
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    first_names: dict[int, str] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        full = prefix + name
        if not isinstance(value, torch.Tensor):
            snapshot.state.setdefault(EXTRA + prefix, {})[name] = snapshot.pack(value, full, EXTRA)
        elif id(value) in first_names:
            snapshot.alias(full, first_names[id(value)])
        else:
            first_names[id(value)] = full
            kind = "parameter" if name in parameters else "buffer"
            snapshot.keep(full, EXTRA if prefix else kind, value)


@dataclass(frozen=True)
class Source:
    """What a module is loaded from: values by name, that can be looked at before they are read.

    Args:
        where: The checkpoint, for messages.
        names: What it has that a network may have.
        look: Gives a name's value; a tensor may be without data (on the meta device).
        check: Reads the values of names, to see that they can be read.
        fetch: Gives the tensor; called by several threads.
        fill: Puts tensors into others of their shapes.
        extra: The names of what modules returned from `get_extra_state` when they were saved.
        fetch_extra: Gives that.
        device: Where modules on the meta device get their memory.
    """

    where: str
    names: Collection[str]
    look: Callable[[str], object]
    check: Callable[[Iterable[str]], None]
    fetch: Callable[[str], Any]
    fill: Callable[[Iterable[tuple[str, torch.Tensor]]], None]
    extra: Collection[str]
    fetch_extra: Callable[[str], object]
    device: torch.device


def from_values(where: str, values: Mapping[str, Any]) -> Source:
    """What is in memory as a source."""

    def fill(places: Iterable[tuple[str, torch.Tensor]]) -> None:
        for name, place in places:
            place.copy_(values[name])

    value = values.__getitem__
    return Source(where, values.keys(), value, lambda _: None, value, fill, (), value, torch.device("cpu"))


def prepare(
    module: nn.Module,
    source: Source,
    *,
    strict: bool,
    rename: Mapping[str, str] | Callable[[str], str] = MappingProxyType({}),
    ignore_mismatched: bool = False,
    kept: Collection[str] = (),
) -> Prepared:
    """Check everything that a module is to be loaded with; it changes when the result is applied.

    Args:
        module: The target; what it has on the meta device gets its memory when it is loaded.
        source: What to load from. Every value is read once to check it, and once more to load it, so that not the
            whole of it has to be held.
        strict: Whether every name of both sides must fit, without conversion.
        rename: As `milepost.state.names.renamed` takes it.
        ignore_mismatched: Whether to leave out what has another shape.
        kept: What is not missing where the source lacks it.

    Raises:
        MismatchError: A shape differs, or a dtype that cannot be converted without loss of range.
        NothingLoadedError: No name fits.
        LoadError: The module has tensors without memory that would not be loaded; or `strict`, and a name of either
            side is left over.
    """
    target = type(module).__name__
    where = f"{source.where} into {target}"
    places = module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in places.items() if isinstance(value, torch.Tensor)}
    _refuse_lazy(where, tensors)
    offered, extra = renamed(source.names, rename), renamed(source.extra, rename)
    pairs = {name: offered[found] for name, found in match(tensors, offered).items()}
    pairs = _with_tied(pairs, tensors)
    if tensors and not pairs:
        raise NothingLoadedError(
            where,
            found="names like " + ", ".join(fold(offered)[:3]) if offered else "no names",
            expected="names like " + ", ".join(fold(tensors)[:3]),
            remedy="Check that the checkpoint is of this network.",
        )
    looked: dict[str, Any] = {found: source.look(found) for found in pairs.values()}
    mismatched = _mismatched(where, pairs, tensors, source, looked, strict=strict, ignore_mismatched=ignore_mismatched)
    left_out = {problem.name for problem in mismatched}
    fitting = {name: found for name, found in pairs.items() if name not in left_out}
    extra_pairs = {
        name: extra[found] for name, found in match([name for name in places if name not in tensors], extra).items()
    }
    pairs |= extra_pairs
    used = set(pairs.values())
    report = LoadReport(
        target,
        loaded=(*fitting, *extra_pairs),
        missing=tuple(name for name in places if name not in pairs and name not in kept),
        unexpected=tuple(name for name in [*source.names, *source.extra] if name not in used),
        mismatched=tuple(mismatched),
        cast=tuple(
            Cast(name, str(looked[found].dtype), str(tensors[name].dtype))
            for name, found in fitting.items()
            if looked[found].dtype != tensors[name].dtype
        ),
        renamed=tuple(Renamed(found, name) for name, found in pairs.items() if name != found),
        kept=tuple(name for name in kept if name not in pairs),
    )
    if strict:
        refuse_leftovers(report, where)
    _refuse_without_memory(where, module, tensors, fitting)
    _refuse_unwritable(where, {name: tensors[name] for name in fitting})
    values = {name: source.fetch_extra(found) for name, found in extra_pairs.items()}
    return Prepared(report, lambda: _apply(module, tensors, fitting, source, values))


def _with_tied(pairs: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The pairs, and each further name of a tensor that is among them: other programs save one name of each."""
    sources = {id(tensors[name]): found for name, found in pairs.items()}
    tied = {name: pairs.get(name) or sources.get(id(tensor)) for name, tensor in tensors.items()}
    return {name: found for name, found in tied.items() if found is not None}


def _mismatched(
    where: str,
    pairs: Mapping[str, str],
    tensors: Mapping[str, torch.Tensor],
    source: Source,
    looked: Mapping[str, Any],
    *,
    strict: bool,
    ignore_mismatched: bool,
) -> list[Mismatch]:
    """Check all values, first those that need not be read; return what is left out, or raise."""
    problems = {name: _problem(name, looked[found], tensors[name], strict=strict) for name, found in pairs.items()}
    mismatched = [problem for problem in problems.values() if problem is not None]
    ignored = [problem for problem in mismatched if ignore_mismatched and problem.is_of_shape]
    if mismatched == ignored:
        unfit = set()
        sound = [name for name in pairs if problems[name] is None]
        cast = [name for name in sound if looked[pairs[name]].dtype != tensors[name].dtype]

        def check_cast(name: str) -> None:
            if not _survives(source.fetch(pairs[name]), tensors[name].dtype):
                unfit.add(name)

        source.check(pairs[name] for name in sound if looked[pairs[name]].dtype == tensors[name].dtype)
        parallel.run([(_nbytes(tensors[name]), partial(check_cast, name)) for name in cast])
        for name in (name for name in pairs if name in unfit):
            dtypes = looked[pairs[name]].dtype, tensors[name].dtype
            mismatched.append(Mismatch(name, f"{dtypes[0]} values out of range", str(dtypes[1])))
    if mismatched != ignored:
        raise MismatchError(
            where,
            found=f"{len(mismatched)} entries that do not fit: " + "; ".join(fold(map(str, mismatched))),
            expected="the shape and a compatible dtype",
            remedy="Build the network as it was saved, or load what fits with load_checkpoint(path, net=...) and "
            "filter_prefix=... (or, where it is the shape, ignore_mismatched=True).",
        )
    if pairs and len(ignored) == len(pairs):
        raise NothingLoadedError(
            where,
            found="only entries of another shape: " + "; ".join(fold(map(str, ignored))),
            expected="some that fit",
            remedy="Check that the checkpoint is of this network.",
        )
    return ignored


def _apply(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    fitting: Mapping[str, str],
    source: Source,
    extra: Mapping[str, object],
) -> None:
    bare = {id(tensor): tensor for tensor in tensors.values() if tensor.is_meta}
    # A tensor made in inference mode could not be trained.
    with torch.inference_mode(False), torch.no_grad():
        fresh = {key: _with_memory(tensor, source.device) for key, tensor in bare.items()}
    _replace(module, fresh)
    try:
        with torch.no_grad():
            if _has_own_ways(module):
                values = {name: source.fetch(found) for name, found in fitting.items()}
                module.load_state_dict({**values, **extra}, strict=False)
            else:
                places = {name: fresh.get(id(tensors[name]), tensors[name]) for name in fitting}
                # Of the names of a tied one the last counts, as when torch loads them in turn.
                sources = {id(place): (fitting[name], place) for name, place in places.items()}
                source.fill(sources.values())
                if extra:
                    module.load_state_dict(dict(extra), strict=False)
    except BaseException:
        _replace(module, {id(new): bare[key] for key, new in fresh.items()})
        raise


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()  # a sparse one has no nbytes


def _has_own_ways(module: nn.Module) -> bool:
    """Whether there is user code to be run when values are loaded, or what is not simply a tensor in memory."""
    own = {id(tensor) for part in module.modules() for tensor in [*part._parameters.values(), *part._buffers.values()]}
    return any(
        part._load_state_dict_pre_hooks
        or part._load_state_dict_post_hooks
        or not type(part)._load_from_state_dict.__module__.startswith("torch.nn.")
        or not type(part).load_state_dict.__module__.startswith("torch.nn.")
        for part in module.modules()
    ) or any(
        isinstance(tensor, torch.Tensor) and (id(tensor) not in own or not _is_plain(tensor))
        for tensor in module.state_dict(keep_vars=True).values()
    )


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer)


def _with_memory(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor like the one on the meta device, not initialised."""
    fresh = torch.empty_like(tensor, device=device)
    if isinstance(tensor, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    fresh.__dict__.update(tensor.__dict__)  # what users have written on it
    return fresh


def _replace(module: nn.Module, replacements: Mapping[int, torch.Tensor]) -> None:
    """Put tensors into the places of others, by identity: what is tied stays tied."""
    for part in module.modules():
        for owned in (part._parameters, part._buffers):
            for name, tensor in owned.items():
                if id(tensor) in replacements:
                    owned[name] = replacements[id(tensor)]  # type: ignore[assignment]  # of the same kind


def _refuse_lazy(where: str, tensors: Mapping[str, torch.Tensor]) -> None:
    lazy = [name for name, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        raise LoadError(
            where,
            found="lazy tensors, that have no shape yet: " + ", ".join(fold(lazy)),
            expected="a network whose shapes are known",
            remedy="Run it once before it is loaded.",
        )


def _refuse_without_memory(
    where: str, module: nn.Module, tensors: Mapping[str, torch.Tensor], fitting: Collection[str]
) -> None:
    # Of tied ones, one name is enough.
    loaded = {id(tensors[name]) for name in fitting}
    everything = {**dict(module.named_buffers(remove_duplicate=False)), **tensors}
    bare = [name for name, tensor in everything.items() if tensor.is_meta and id(tensor) not in loaded]
    if bare:
        raise LoadError(
            where,
            found="tensors on the meta device that the checkpoint has no value for: " + ", ".join(fold(bare)),
            expected="a value for each tensor without memory (buffers that are not persistent are never saved)",
            remedy="Give the network memory with to_empty(device=...), and set these yourself.",
        )


def _refuse_unwritable(where: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """What torch would refuse only when others have been written."""
    bad = [name for name, tensor in tensors.items() if tensor.layout != torch.strided or _overlaps_itself(tensor)]
    if bad:
        raise LoadError(
            where,
            found="tensors that are sparse, or whose elements share memory: " + ", ".join(fold(bad)),
            expected="tensors with memory of their own for each element",
            remedy="Make them dense with to_dense() or contiguous(), or leave them out with filter_prefix.",
        )


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _problem(name: str, value: object, place: torch.Tensor, *, strict: bool) -> Mismatch | None:
    if not isinstance(value, torch.Tensor):
        return Mismatch(name, f"a {type(value).__name__}", "a tensor")
    if value.shape != place.shape:
        return Mismatch(name, str(tuple(value.shape)), str(tuple(place.shape)), is_of_shape=True)
    if value.dtype == place.dtype:
        return None
    if strict or _family(value.dtype) is None or _family(value.dtype) != _family(place.dtype):
        return Mismatch(name, str(value.dtype), str(place.dtype))
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
