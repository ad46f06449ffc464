"""`Parameters`: an open checkpoint as a mapping name -> tensor. What is loaded into what is not known here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

import torch

from milepost import parallel
from milepost.engine.open_file import OpenFile
from milepost.errors import DamagedCheckpointError, MilepostError, NothingLoadedError
from milepost.format.dialect import native
from milepost.format.dtypes import DTYPES
from milepost.format.spec import Entry
from milepost.format.text import decode_text
from milepost.state import modules, optimizers
from milepost.state.report import LoadReport, fold
from milepost.state.tensors import as_value, bytes_of, empty, fills_from, in_turn, over
from milepost.state.values import unpack

_SMALL_NBYTES = 16 << 10
"""Memory for less than this is had quicker from Python than from torch."""


class Parameters(MutableMapping[str, "torch.Tensor | str"]):
    """What `load_checkpoint` returns: name -> tensor, read and checked when it is first asked for.

    Names can be removed and set as in a dict; nothing of that reaches the file. The random state of the training is in
    the file too, but not among the names. The file stays open until `close`, the end of a ``with`` block, or the end of
    this object.

    Attributes:
        where: The file, for messages.
        device: Where the tensors go that are asked for, and modules on the meta device.
        metadata: What was stored beside the tensors: ``epoch``, ``step`` (within the epoch), ``global_step``,
            ``metrics``, ... (empty for files that store nothing).
        index: What the file holds, whatever was removed from the names or set.
        report: What loading did, if `load_checkpoint` was given a network; else None.
        beside: What is in the file beside the names, by the name in it of the entry that holds the content.
    """

    def __init__(self, reader: OpenFile, *, is_mapped: bool = False) -> None:
        self.index, self._stored_names = native(reader.index, reader.where)
        self._reader, index = reader, self.index
        self._is_mapped = is_mapped
        # Tied names share one key, and so one tensor, as they did when they were saved.
        keys = dict(zip(index.entries, index.entries, strict=True)) | dict(index.aliases)
        hidden = {key: entry.kind for key, entry in index.entries.items() if entry.kind in (modules.EXTRA, "random")}
        self.beside = {name: key for name, key in keys.items() if hidden.get(key) == modules.EXTRA}
        self._keys = {name: key for name, key in keys.items() if key not in hidden} if hidden else keys
        self._values: dict[str, torch.Tensor | str] = {}
        self._looks: dict[tuple[str, tuple[int, ...]], torch.Tensor] = {}
        self._is_verified = False
        self.device = torch.device("cpu")
        self.where = reader.where
        self.metadata: dict[str, Any] = dict(index.metadata)
        self.report: LoadReport | None = None

    def kind(self, name: str) -> str:
        """What `name` is to the training: one of `milepost.format.spec.KINDS`."""
        entry = self.index.entries.get(self._keys[name])
        if entry is None:
            return "appended"
        return "unknown" if entry.kind == modules.EXTRA else entry.kind  # seen only by `part`

    def _entry(self, name: str) -> Entry:
        """The entry that holds the content of `name`; its own name and shape are PyTorch's."""
        return self.index.entries[self.index.aliases.get(name, name)]

    def part(self, part: str) -> Parameters:
        """The module that was stored beside the network under this name, as if it were the network.

        Raises:
            NothingLoadedError: There is none.
        """
        with sound(self.where):
            state = self.metadata.get("state", {})
            prefix = f"{part}."
            if modules.EXTRA + prefix not in state:
                raise no_part(self.where, part, self.parts())
            extra = state[modules.EXTRA + prefix]
            inside = tuple(prefix + name for name in extra)  # tensors in what get_extra_state returned
            names = [name for name in self.beside if name.startswith(prefix)]
        twin = copy.copy(self)
        twin.metadata["state"] = {modules.EXTRA: extra}
        twin._keys = {name.removeprefix(prefix): self.beside[name] for name in names if not name.startswith(inside)}
        twin.beside = {name: self.beside[name] for name in names if name.startswith(inside)}
        twin._values = {}
        return twin

    def parts(self) -> list[str]:
        """The names of the modules that were stored beside the network."""
        state = self.metadata.get("state", {})
        beside = [key.removeprefix(modules.EXTRA)[:-1] for key in state if key.startswith(modules.EXTRA)]
        return [name for name in beside if name]

    def fetch(self, name: str) -> torch.Tensor | str:
        """Read an entry of the file anew, whether it is among the names or not."""
        entry = self._entry(name)
        if entry.spec.dtype == "str":
            return decode_text(self._reader.read(self._stored_names.get(name, name)), f"{self.where}, entry {name!r}")
        tensor = self._tensor(self._stored_names.get(name, name), entry)
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            raise DamagedCheckpointError(
                f"{self.where}, entry {name!r}",
                found="truth values other than 0 and 1",
                expected="one of these in each byte",
                remedy="The file was changed, or written wrongly; load an earlier checkpoint.",
            )
        return tensor

    def _tensor(self, name: str, entry: Entry) -> torch.Tensor:
        spec = entry.spec
        view = self._reader.view(name, DTYPES[spec.dtype].itemsize) if self._is_mapped else None
        if view is not None:
            return over(self.where, spec, view)
        if 0 < entry.nbytes < _SMALL_NBYTES:
            return over(self.where, spec, self._reader.read(name))
        tensor = empty(self.where, spec)
        self._reader.read_into([(name, bytes_of(tensor))])
        return tensor

    def fetch_tensor(self, name: str) -> torch.Tensor:
        """Give the tensor of an entry that the state refers to: the one that was set, or one read anew."""
        value = self._values.get(name)
        value = value.clone() if isinstance(value, torch.Tensor) else self.fetch(name)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"entry {name!r} is a text")
        return value

    def referred(self) -> Callable[[str], torch.Tensor]:
        """Return a `fetch_tensor` for one load; a state that refers to much a thousand times is refused by it."""
        held = [value.nbytes for value in self._values.values() if isinstance(value, torch.Tensor)]
        room = sum(held, self.index.nbytes)

        def fetch_tensor(name: str) -> torch.Tensor:
            nonlocal room
            tensor = self.fetch_tensor(name)
            room -= tensor.nbytes
            if room < 0:
                raise ValueError("references to more bytes than the file has")
            return tensor

        return fetch_tensor

    def contents(self) -> optimizers.Contents:
        """Those entries that can be read straight into memory: of numbers, as they are in the file."""

        def look(name: str) -> torch.Tensor | None:
            is_stored = self._keys.get(name) == name and name not in self._values
            value = self.look(name) if is_stored else None
            return value if isinstance(value, torch.Tensor) and value.dtype != torch.bool else None

        return optimizers.Contents(look, self.check, self.fill)

    def verify(self) -> None:
        """Check every byte of the file, or raise `DamagedCheckpointError`."""
        self._reader.verify()
        self._is_verified = True

    def state(self, key: str) -> Any:
        """Rebuild a part of the state that is not tensors by itself, e.g. ``random``; None where there is none."""
        with sound(self.where):
            packed = self.metadata.get("state", {}).get(key)
            return None if packed is None else unpack(packed, self.referred())

    def select(self, is_kept: Callable[[str], bool]) -> None:
        """Remove the names that are not kept; also from the optimizer's state, by its parameters' names."""
        with sound(self.where):
            state = dict(self.metadata.get("state", {}))
            extra = state.get(modules.EXTRA, {})
            state[modules.EXTRA] = {name: value for name, value in extra.items() if is_kept(name)}
            for key in self.optimizer_keys():
                state[key] = optimizers.select(state[key], _both(is_kept, f"{key}."))
                for name in [name for name in self if self.kind(name) == "optimizer" and name.startswith(f"{key}.")]:
                    if not is_kept(name.removeprefix(f"{key}.")):
                        del self[name]
            self.metadata["state"] = state
        for name in [name for name in self if not is_kept(name)]:
            del self[name]

    def optimizer_keys(self) -> list[str]:
        """The keys of the optimizers whose state is there."""
        state = self.metadata.get("state", {})
        others = [key for key, value in state.items() if isinstance(value, dict) and "groups" in value]
        only = [] if state.get(optimizers.OPTIMIZER) is None else [optimizers.OPTIMIZER]
        return list(dict.fromkeys(only + others))

    def close(self) -> None:
        """Close the file; tensors that were read stay."""
        self._reader.close()

    def __enter__(self) -> Parameters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def look(self, name: str) -> Any:
        """As ``self[name]``, but what was not read yet is not read: a tensor without data has its dtype and shape."""
        key = self._keys[name]
        if key in self._values:
            return as_value(name, self._values[key])
        spec = self._entry(key).spec
        if spec.dtype == "str":
            return ""
        if (spec.dtype, spec.shape) not in self._looks:  # a model has many tensors of one shape
            self._looks[spec.dtype, spec.shape] = empty(self.where, spec, "meta")
        return self._looks[spec.dtype, spec.shape]

    def check(self, names: Iterable[str]) -> None:
        """Check the contents of names; memory grows with none of them but truth values."""
        keys = {self._keys[name]: None for name in names}
        unread = [key for key in keys if key not in self._values]
        others = []
        for key in unread:
            if self._entry(key).spec.dtype == "bool":
                self.fetch(key)
            else:
                others.append(self._stored_names.get(key, key))
        if not self._is_verified:
            self._reader.check(others)

    def peek(self, name: str) -> Any:
        """As ``self[name]``, but what has to be read is not kept, and arrays that were set are tensors."""
        key = self._keys[name]
        return as_value(name, self._values[key]) if key in self._values else self.fetch(key)

    def fill(self, places: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Put names into tensors of their shape: read straight into their memory if possible, else by way of a copy."""
        direct: list[tuple[str, torch.Tensor]] = []
        others: list[tuple[str, torch.Tensor]] = []
        for name, place in places:
            key = self._keys[name]
            is_direct = key not in self._values and fills_from(place, self._entry(key).spec.dtype)
            (direct if is_direct else others).append((name, place))
        keys = [self._keys[name] for name, _ in direct]
        buffers = [bytes_of(place.detach()) for _, place in direct]
        # Before, so that a lazy save beside this gives the tensors up, and after, as every write to a tensor does it.
        _count_writes(place for _, place in direct)
        try:
            self._reader.read_into(zip([self._stored_names.get(key, key) for key in keys], buffers, strict=True))
        finally:
            _count_writes(place for _, place in direct)
        parallel.run([(place.nbytes, self._copying(name, place)) for name, place in others])

    def _copying(self, name: str, place: torch.Tensor) -> Callable[[], None]:
        """A job for any thread; what this one has set, gradients and streams, is not that one's."""
        value = self._values.get(self._keys[name])
        as_here = in_turn(place, value) if isinstance(value, torch.Tensor) else in_turn(place)

        def copy_one() -> None:
            with torch.no_grad(), as_here():
                place.copy_(self.peek(name))

        return copy_one

    def __getitem__(self, name: str) -> torch.Tensor | str:
        key = self._keys[name]
        if key not in self._values:
            value = self.fetch(key)
            self._values[key] = value if isinstance(value, str) else value.to(self.device)
        return self._values[key]

    def __setitem__(self, name: str, value: torch.Tensor | str) -> None:
        self._values[self._keys.setdefault(name, name)] = value

    def __delitem__(self, name: str) -> None:
        del self._keys[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __copy__(self) -> Parameters:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._keys, twin._values, twin.metadata = dict(self._keys), dict(self._values), dict(self.metadata)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameters:
        twin = copy.copy(self)
        twin._values = copy.deepcopy(self._values, memo)
        return twin

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled, because it holds an open file; send the path instead")

    def __repr__(self) -> str:
        return f"<Parameters of {self.where}: {len(self)} names>"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"  {line}" for line in fold(self))])


def _count_writes(places: Iterable[torch.Tensor]) -> None:
    for place in places:
        if not place.is_inference():  # such a tensor has no version
            torch.autograd.graph.increment_version(place)


def no_part(where: str, part: str, parts: list[str]) -> NothingLoadedError:
    """The error for a part that is not there, with those that are."""
    return NothingLoadedError(
        where,
        found=f"the parts {', '.join(parts)}" if parts else "no further parts",
        expected=f"a part {part!r}",
        remedy="Give the name that it was saved under.",
    )


def _both(is_kept: Callable[[str], bool], prefix: str) -> Callable[[str], bool]:
    return lambda name: is_kept(name) and is_kept(prefix + name)


@contextmanager
def sound(where: str) -> Iterator[None]:
    """Tell of metadata that is JSON, but not what docs/format.md describes, as of damage."""
    try:
        yield
    except MilepostError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(
            f"{where}, metadata",
            found=f"a state that cannot be read ({type(error).__name__}: {error})",
            expected="one as docs/format.md describes it",
            remedy="It was written by something else; the tensors can still be taken by name.",
        ) from error
