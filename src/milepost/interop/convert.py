"""`convert`: what one file holds into one of another kind, array by array. What the arrays mean is not known here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from milepost.engine.open_file import OpenFile
from milepost.engine.writer import write
from milepost.errors import SettingError, SettingTypeError
from milepost.format.containers import FORMATS, Packaging
from milepost.format.encryption import DEFAULT
from milepost.format.spec import Array, Entry
from milepost.interop import sharding
from milepost.interop.files import open_file
from milepost.storage.local import LocalStorage

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
SUFFIXES = (*(f".{name}" for name in FORMATS), *TORCH_SUFFIXES)
"""How a target's name ends; it says what is written."""


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    max_shard_nbytes: int | None = None,
    dec_key: bytes | None = None,
    dec_mode: str = DEFAULT,
    enc_key: bytes | None = None,
    enc_mode: str = DEFAULT,
    crc_check: bool = False,
    on_read: Callable[[int], object] = lambda _: None,
) -> Path:
    """Write what a file holds into a file of another kind, bit for bit; it is durable when the call returns.

    Every content is checked as it is read, where the source has checksums, and memory holds one at a time. What the
    target has no place for, Milepost's own files say beside the tensors (docs/format.md): names of tied weights, kinds,
    texts, metadata, everything else that was in a file of torch. So a file that goes there and back has it all again.

    Args:
        src: Whatever `milepost.interop.files.open_file` opens: `.ckpt`, safetensors, the ``.index.json`` of shards, a
            file of `torch.save`. Its bytes tell which.
        dst: Where to; the ending says what is written: ``.ckpt``, ``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` for
            a dict of tensors by `torch.save` (what cannot be mapped in the source takes space on the disk a second time
            while it is written). A file of that name is replaced in one step.
        max_shard_nbytes: For safetensors, the most bytes of tensors in one file. More are cut into shards,
            ``model-00001-of-00003.safetensors``, with ``model.safetensors.index.json``, as Hugging Face's libraries do.
        dec_key: The key of an encrypted source.
        dec_mode: How it is encrypted: ``AES-GCM``, ``AES-CBC`` or ``SM4-CBC``.
        enc_key: The key to encrypt a `.ckpt` with.
        enc_mode: How to.
        crc_check: Whether to add the CRC-32 that MindSpore checks, to a `.ckpt` or to safetensors.
        on_read: Is told of the bytes of each content that was read.

    Returns:
        The path of what was written: `dst`, or the index of the shards.

    Raises:
        CheckpointNotFoundError: There is no source.
        NotACheckpointError: The source is something else, or holds what is not plain data.
        DamagedCheckpointError: The source is not as it was saved; a file called `dst` is as before.
        DecryptionError: The source does not open with this key.
        SettingError: Settings that cannot be meant; or the target cannot hold an entry's name.
        SaveError: The file system refused; a file called `dst` is as before.

    Example:
        >>> import os, tempfile, torch
        >>> folder = tempfile.mkdtemp()
        >>> torch.save({"model": {"w": torch.ones(2)}, "epoch": 3}, os.path.join(folder, "last.pt"))
        >>> path = convert(os.path.join(folder, "last.pt"), os.path.join(folder, "last.safetensors"))
        >>> torch.load(convert(path, os.path.join(folder, "again.pt")))
        {'model': {'w': tensor([1., 1.])}, 'epoch': 3}
    """
    target = _path(dst)
    packaging = _packaging(target, enc_key, enc_mode, crc_check)
    if max_shard_nbytes is not None:
        _check_shards(max_shard_nbytes, target)
    with open_file(src, dec_key=dec_key, dec_mode=dec_mode) as file:
        return _write(file, target, packaging, max_shard_nbytes, on_read)


def _write(
    file: OpenFile,
    target: Path,
    packaging: Packaging | None,
    max_shard_nbytes: int | None,
    on_read: Callable[[int], object],
) -> Path:
    storage = LocalStorage(target.parent)
    if packaging is None:
        from milepost.interop.torch_writer import write_torch

        write_torch(storage, target.name, file, on_read)
        return target
    arrays = [_array(file, entry, on_read) for entry in file.index.entries.values()]
    if max_shard_nbytes is not None and sum(entry.nbytes for entry in file.index.entries.values()) > max_shard_nbytes:
        return target.parent / sharding.write(storage, target.name, file.index, arrays, max_shard_nbytes, packaging)
    write(storage, target.name, packaging.lay_out(arrays, file.index.metadata, file.index.aliases))
    return target


def _array(file: OpenFile, entry: Entry, on_read: Callable[[int], object]) -> Array:
    def content() -> memoryview:
        read = memoryview(file.read(entry.spec.name))
        on_read(len(read))
        return read

    return Array(entry.spec, entry.kind, content, checksum=entry.checksum)


def _path(dst: object) -> Path:
    if not isinstance(dst, str | os.PathLike) or not os.fspath(dst):
        raise SettingTypeError("dst", found=repr(dst), expected="the path of a file", remedy="Give a str or a Path.")
    path = Path(dst)
    if path.suffix not in SUFFIXES:
        raise SettingError(
            path,
            found=f"a name that ends in {path.suffix!r}",
            expected="one of " + ", ".join(SUFFIXES),
            remedy="Choose the ending of what is to be written.",
        )
    return path


def _packaging(target: Path, enc_key: bytes | None, enc_mode: str, crc_check: bool) -> Packaging | None:
    """How the target is laid out; None for torch, which does that itself."""
    if target.suffix not in TORCH_SUFFIXES:
        name = cast(Literal["ckpt", "safetensors"], target.suffix[1:])
        return Packaging(name, enc_key, enc_mode, crc_check)
    if (enc_key, enc_mode, crc_check) != (None, DEFAULT, False):
        raise SettingError(
            "enc_key" if enc_key is not None else "crc_check" if crc_check else "enc_mode",
            found=f"a {target.suffix} file",
            expected="a .ckpt",
            remedy="Leave it out: torch knows neither.",
        )
    return None


def _check_shards(max_shard_nbytes: object, target: Path) -> None:
    if isinstance(max_shard_nbytes, bool) or not isinstance(max_shard_nbytes, int):
        raise SettingTypeError(
            "max_shard_nbytes", found=repr(max_shard_nbytes), expected="an int", remedy="Give a number of bytes."
        )
    if max_shard_nbytes < 1 or target.suffix != ".safetensors":
        raise SettingError(
            "max_shard_nbytes",
            found=f"{max_shard_nbytes} for a {target.suffix} file",
            expected="a number above 0, and a .safetensors file",
            remedy="Leave it out for one file.",
        )
