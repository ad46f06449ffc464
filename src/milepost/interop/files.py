"""One way to open any file that Milepost reads, told by its bytes. torch is imported only for torch's own files."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from milepost.engine.open_file import OpenFile
from milepost.engine.reader import Reader
from milepost.errors import SettingTypeError
from milepost.format.encryption import DEFAULT
from milepost.interop import shards
from milepost.storage.local import LocalStorage

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save began its files before it wrote zip archives: a pickle of its magic number."""


def open_file(
    path: str | os.PathLike[str], *, dec_key: bytes | None = None, dec_mode: str = DEFAULT, verify: bool = True
) -> OpenFile:
    """Open a file of named arrays: what it holds is known and checked, contents are read when they are asked for.

    Args:
        path: A `.ckpt` of Milepost or MindSpore, a safetensors file, the ``.index.json`` of a file that Hugging Face's
            libraries cut into shards, or a file of `torch.save`. What a file is called does not matter.
        dec_key: The key of an encrypted `.ckpt`: 16, 24 or 32 bytes.
        dec_mode: How it is encrypted: ``AES-GCM``, ``AES-CBC`` or ``SM4-CBC``.
        verify: Whether contents are compared with their checksums when they are taken.

    Returns:
        The open file; its `container` says of what kind it is.

    Raises:
        CheckpointNotFoundError: No such file.
        NotACheckpointError: The file is something else, or holds what is not plain data.
        DamagedCheckpointError: The file is not as it was saved.
        DecryptionError: The file is encrypted, and does not open with this key and mode.
        MissingExtraError: The file is encrypted, and the package `cryptography` is not installed.

    Example:
        >>> import os, tempfile, torch
        >>> path = os.path.join(tempfile.mkdtemp(), "net.pt")
        >>> torch.save({"model": {"w": torch.ones(2)}, "epoch": 3}, path)
        >>> with open_file(path) as file:
        ...     file.container, list(file.index.entries), file.index.metadata["tree"]["epoch"]
        ('torch zip', ['model.w'], 3)
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise SettingTypeError("path", found=repr(path), expected="the path of a file", remedy="Give a str or a Path.")
    path = Path(path)
    return _open(path, dec_key, dec_mode, verify=verify, may_be_index=True)


def _open(
    path: Path,
    dec_key: bytes | None = None,
    dec_mode: str = DEFAULT,
    *,
    verify: bool = True,
    may_be_index: bool = False,
) -> OpenFile:
    storage = LocalStorage(path.parent)
    file = storage.open(path.name)
    start = file.read(0, min(file.nbytes, len(LEGACY)))
    is_torch, is_index = start.startswith((ZIP, LEGACY)), may_be_index and start[:1] == b"{"
    if dec_key is not None or not (is_torch or is_index):
        return Reader(storage, path.name, dec_key=dec_key, dec_mode=dec_mode, verify=verify, file=file)
    file.close()
    if is_index:
        # Only plain files: a shard that is an index itself could lead back to this one.
        return shards.ShardedFile(path, partial(_open, verify=verify))
    from milepost.interop.torch_files import TorchFile

    return TorchFile(path, is_zip=start.startswith(ZIP))
