"""Files of `torch.save`, of today and of before 1.6, as named arrays; never anything in them that is not plain data.

The one way in is `torch.load(weights_only=True)`. A file of nested dicts, such as a training's, becomes entries with
dotted names, and everything else in it JSON: the metadata's ``tree`` is the whole with references to the entries.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from milepost import parallel
from milepost.errors import DamagedCheckpointError, MilepostError, NotACheckpointError, UnsupportedStateError
from milepost.format import companion
from milepost.format.checksum import Checksum
from milepost.format.spec import ArraySpec, Entry, Extent, Index
from milepost.format.text import encode_text
from milepost.state.tensors import TO_TORCH, array_of, content_of
from milepost.state.values import ENTRY, pack

TREE = "tree"
"""The metadata's key for what a file of torch holds as a whole."""

COMPANION = "_milepost"
"""The attribute of the ordered dict in a file of Milepost's for torch: what torch.save has no place for."""

_Place = tuple[int, int, torch.dtype, tuple[int, ...], tuple[int, ...], bool, bool]


class TorchFile:
    """A file of `torch.save`; an `OpenFile`. Tensors of a zip archive stay on disk until they are read.

    Args:
        path: The file.
        is_zip: Whether it is a zip archive, as torch 1.6 and later write it.

    Raises:
        NotACheckpointError: The file holds what is not plain data, or no tensor.
        DamagedCheckpointError: torch cannot read it.
    """

    def __init__(self, path: Path, *, is_zip: bool) -> None:
        self.where = str(path)
        self.container = "torch zip" if is_zip else "torch legacy"
        self._path = path
        self._is_zip = is_zip
        if is_zip:
            self._check_archive()
        tree = self._load()
        self._contents: dict[str, torch.Tensor | memoryview] = {}
        with self._named():
            is_ours = type(tree) is OrderedDict and isinstance(vars(tree).get(COMPANION), dict)
            self.index = self._ours(tree) if is_ours else self._foreign(tree)

    def _check_archive(self) -> None:
        """Look at the directory: a small archive that unpacks to a large one is none of torch's."""
        with self._sound(), zipfile.ZipFile(self._path) as archive:
            names = archive.namelist()
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        if packed or not any(name.endswith("/data.pkl") for name in names):
            raise NotACheckpointError(
                self.where,
                found=f"a zip archive with {(packed or names or ['nothing'])[0]!r:.80}",
                expected="one of torch.save, which has data.pkl and packs nothing",
                remedy="Check the path.",
            )

    def _load(self) -> Any:
        with self._sound(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about classes of its own that it no longer likes
            try:
                return torch.load(self._path, map_location="cpu", weights_only=True, mmap=self._is_zip)
            except pickle.UnpicklingError as error:
                raise NotACheckpointError(
                    self.where,
                    found="objects that are not plain data: " + _reason(error),
                    expected="tensors, numbers, texts, and lists and dicts of them",
                    remedy="Nothing was executed. Where you trust the file, load it with torch.load and save "
                    "its state_dict.",
                ) from error

    @contextmanager
    def _sound(self) -> Iterator[None]:
        """Tell of whatever torch or zipfile raises as of damage."""
        try:
            yield
        except (MilepostError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle can raise anything
            found = f"what torch cannot read ({type(error).__name__}: {_reason(error)})"
            raise self._damaged(found, "a file as torch.save wrote it") from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Tell of what Milepost has no word for as of the file's own."""
        try:
            yield
        except UnsupportedStateError as error:
            raise NotACheckpointError(
                f"{self.where}, {error.where}", found=error.found, expected=error.expected, remedy=error.remedy
            ) from error

    def _ours(self, tree: OrderedDict[str, Any]) -> Index:
        """A file of Milepost's: the names are one flat dict, and what torch has no place for stands beside it."""
        beside = companion.find(getattr(tree, COMPANION), self.where, tree, has_aliases=True)
        if beside is None:
            return self._foreign(tree)
        entries = {}
        for fact in beside.facts:
            value = tree[fact.spec.name]
            entries[fact.spec.name] = self._entry(fact.spec, fact.kind, fact.checksum, value)
        return self._indexed(entries, beside.aliases, beside.metadata)

    def _foreign(self, tree: Any) -> Index:
        aliases: dict[str, str] = {}
        entries: dict[str, Entry] = {}
        places: dict[_Place, str] = {}

        def keep(name: str, tensor: torch.Tensor) -> None:
            if not name or name in entries or name in aliases:
                raise UnsupportedStateError(
                    f"entry {name!r}",
                    found="two tensors of this name" if name else "a tensor without a name",
                    expected="dicts of tensors, whose keys, joined by dots, are one name each",
                    remedy="Load it with torch.load(path, weights_only=True), and save it by other names.",
                )
            spec = array_of(name, "unknown", tensor).spec
            if spec.nbytes > self._path.stat().st_size:
                raise UnsupportedStateError(
                    f"entry {name!r}",
                    found=f"a tensor of {spec.nbytes} bytes, whose elements share memory, in a smaller file",
                    expected="tensors with memory of their own for each element",
                    remedy="Load it with torch.load(path, weights_only=True), and save contiguous() ones.",
                )
            first = places.setdefault(_place(tensor), name) if tensor.numel() else name
            if first != name:
                aliases[name] = first
            else:
                entries[name] = self._entry(spec, "unknown", None, tensor)

        packed = pack(tree, "", keep)
        if not entries:
            raise NotACheckpointError(
                self.where, found="no tensors", expected="some, named by dicts", remedy="Check the path."
            )
        # Names that lead to tensors say the same as such a tree, and a mapping needs nothing else.
        is_flat = type(tree) is dict and packed == {name: {ENTRY: name} for name in [*entries, *aliases]}
        return self._indexed(entries, aliases, {} if is_flat else {TREE: packed})

    def _entry(self, spec: ArraySpec, kind: str, checksum: int | None, value: Any) -> Entry:
        content = memoryview(encode_text(value)) if isinstance(value, str) else None
        if content is None and (not isinstance(value, torch.Tensor) or not _is_stored_as(value, spec)):
            raise self._damaged(f"{type(value).__name__} for {spec.name!r}", f"{spec}, as it was saved")
        self._contents[spec.name] = value if content is None else content
        # torch does not say where in the file a tensor lies.
        return Entry(spec, kind, (Extent(0, spec.nbytes if content is None else len(content)),), checksum)

    def _indexed(self, entries: dict[str, Entry], aliases: Mapping[str, str], metadata: Mapping[str, Any]) -> Index:
        return Index(entries, aliases, metadata, self._path.stat().st_size, None, self.container)

    def _damaged(self, found: str, expected: str) -> DamagedCheckpointError:
        return DamagedCheckpointError(
            self.where,
            found=found,
            expected=expected,
            remedy="The file was changed or cut short; fetch it again, or load an earlier one.",
        )

    def entry(self, name: str) -> Entry:
        """The entry that holds the content of `name`; where in the file it lies, torch does not tell."""
        return self.index.entries[self.index.aliases.get(name, name)]

    def _content(self, name: str) -> tuple[Entry, memoryview]:
        entry = self.entry(name)
        value = self._contents[entry.spec.name]
        content = content_of(value) if isinstance(value, torch.Tensor) else value
        if entry.checksum is not None:
            found = Checksum.of(content)
            if found != entry.checksum:
                raise self._damaged(f"{name!r} with the checksum {found:016x}", f"{entry.checksum:016x}, as saved")
        return entry, content

    def read(self, name: str) -> bytearray:
        """Return the content of `name`, checked where the file is Milepost's."""
        return bytearray(self._content(name)[1])

    def read_into(self, places: Iterable[tuple[str, memoryview]]) -> None:
        """Fill buffers with the contents of names, checked likewise."""

        def fill(name: str, buffer: memoryview) -> None:
            buffer[:] = self._content(name)[1]

        parallel.run([(len(buffer), partial(fill, name, buffer)) for name, buffer in places])

    def view(self, name: str, alignment: int) -> memoryview | None:  # noqa: ARG002 (torch does not tell where it lies)
        """None: it is read."""
        return None

    def check(self, names: Iterable[str]) -> None:
        """Check the contents of names without keeping them."""
        parallel.run([(self.entry(name).nbytes, partial(self._content, name)) for name in names])

    def verify(self, on_checked: Callable[[int], object] = lambda _: None) -> None:
        """Check the CRC-32 of everything in a zip archive, and the checksums where the file is Milepost's."""
        if self._is_zip:
            with self._sound(), zipfile.ZipFile(self._path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise self._damaged(f"{broken} with another CRC-32", "the one that it was saved with")
        for name, entry in self.index.entries.items():
            self._content(name)
            on_checked(entry.nbytes)

    def close(self) -> None:
        """Let go of the tensors, and with them of the file."""
        self._contents.clear()

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _place(tensor: torch.Tensor) -> _Place:
    """Equal for tensors that are one, under several names."""
    memory = tensor.untyped_storage().data_ptr()
    shape, stride = tuple(tensor.shape), tensor.stride()
    # A conjugate has the same memory, and says only by a bit of its own that it is another tensor.
    return memory, int(tensor.storage_offset()), tensor.dtype, shape, stride, tensor.is_conj(), tensor.is_neg()


def _is_stored_as(tensor: torch.Tensor, spec: ArraySpec) -> bool:
    return tensor.dtype == TO_TORCH.get(spec.dtype) and tuple(tensor.shape) == spec.shape


def _reason(error: Exception) -> str:
    """What torch says, without its advice to trust the file."""
    text = str(error)
    unsafe = re.search(r"[Uu]nsupported (\S+ ){0,3}?\S*[._]\S+", text)
    return unsafe[0] if unsafe else text.strip().partition("\n")[0][:200]
