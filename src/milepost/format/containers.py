"""Which format a file has, told by its bytes and not by its name, and the one way to read the index of any of them."""

from __future__ import annotations

from typing import Any

from milepost.errors import DecryptionError
from milepost.format import ckpt, encryption, safetensors
from milepost.format.spec import Index, Source


def read_index(source: Source, where: str) -> Index:
    """Return what a file holds, as `ckpt.read_index` and `safetensors.read_index` do for theirs.

    Raises:
        NotACheckpointError: The file is something else, or of a kind that this version does not read.
        DamagedCheckpointError: The file is not as it was saved.
        DecryptionError: The file is encrypted.
    """
    if safetensors.is_one(source):
        return safetensors.read_index(source, where)
    _refuse_encrypted(source, where)
    return ckpt.read_index(source, where)


def read_metadata(source: Source, where: str) -> dict[str, Any]:
    """Return a file's metadata alone: quicker than `read_index`, whose arguments and errors it has."""
    if safetensors.is_one(source):
        return dict(safetensors.read_index(source, where).metadata)
    _refuse_encrypted(source, where)
    return ckpt.read_metadata(source, where)


def _refuse_encrypted(source: Source, where: str) -> None:
    mode = encryption.mode_of(source)
    if mode is not None:
        raise DecryptionError(
            where,
            found=f"a file encrypted with {mode.name}",
            expected="its key",
            remedy=f'Give dec_key=..., dec_mode="{mode.name}".',
        )


def verify_framing(source: Source, index: Index, where: str) -> None:
    """Check every byte that is not content, as far as it can be known.

    Raises:
        DamagedCheckpointError: A byte differs from what belongs there.
    """
    # Of a safetensors file this is the header, which was checked when it was read.
    if not safetensors.is_one(source):
        ckpt.verify_framing(source, index, where)
