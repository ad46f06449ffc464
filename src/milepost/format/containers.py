"""Which format a file has, told by its bytes and not by its name, and which it is to have. Paths are not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from milepost.errors import DecryptionError, SettingError, SettingTypeError
from milepost.format import ckpt_index, ckpt_plan, encryption, safetensors
from milepost.format.collector import paused
from milepost.format.crc import Trailer
from milepost.format.spec import Array, Filter, Filtered, Index, Layout, Source


@paused()
def read_index(source: Source, where: str) -> Index:
    """Return what a file holds, as `ckpt_index.read_index` and `safetensors.read_index` do for theirs.

    Raises:
        NotACheckpointError: The file is something else, or of a kind that this version does not read.
        DamagedCheckpointError: The file is not as it was saved.
        DecryptionError: The file is encrypted.
    """
    if safetensors.is_one(source):
        return safetensors.read_index(source, where)
    _refuse_encrypted(source, where)
    return ckpt_index.read_index(source, where)


def read_metadata(source: Source, where: str) -> dict[str, Any]:
    """Return a file's metadata alone: quicker than `read_index`, whose arguments and errors it has."""
    if safetensors.is_one(source):
        return dict(safetensors.read_index(source, where).metadata)
    _refuse_encrypted(source, where)
    return ckpt_index.read_metadata(source, where)


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
        ckpt_index.verify_framing(source, index, where)


FORMATS: tuple[Literal["ckpt", "safetensors"], ...] = ("ckpt", "safetensors")
"""What a `Packaging` can lay out, by the ending of the files' names."""


@dataclass(frozen=True, slots=True)
class Packaging:
    """In which format arrays are written, and what goes around them.

    Args:
        format: ``ckpt`` or ``safetensors``.
        enc_key: The key to encrypt a `.ckpt` with: 16, 24 or 32 bytes (SM4: 16).
        enc_mode: How: ``AES-GCM``, ``AES-CBC`` or ``SM4-CBC``.
        crc_check: Whether to add the CRC-32 that MindSpore checks.

    Raises:
        SettingError: A setting that cannot be meant, or means nothing without another, or two that exclude each other.
        MissingExtraError: There is a key, and the package `cryptography` is not installed.
    """

    format: Literal["ckpt", "safetensors"] = "ckpt"
    enc_key: bytes | None = field(default=None, repr=False)
    enc_mode: str = encryption.DEFAULT
    crc_check: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise SettingError(
                "format",
                found=repr(self.format),
                expected="one of " + ", ".join(FORMATS),
                remedy="Choose one of these.",
            )
        if not isinstance(self.crc_check, bool):
            raise SettingTypeError("crc_check", found=repr(self.crc_check), expected="a bool", remedy="Give True.")
        if self.enc_key is None:
            if self.enc_mode != encryption.DEFAULT:
                raise SettingError(
                    "enc_mode",
                    found=f"{self.enc_mode!r} and no enc_key",
                    expected="the key to encrypt with",
                    remedy="Give it, or leave enc_mode out: nothing would be encrypted.",
                )
            return
        encryption.checked_mode(self.enc_key, self.enc_mode, "enc")
        if self.crc_check or self.format != "ckpt":
            raise SettingError(
                "enc_key",
                found="crc_check beside it" if self.crc_check else f"the format {self.format}",
                expected="a .ckpt without crc_check: MindSpore opens no encrypted file of another kind",
                remedy="Leave out one of the two; AES-GCM finds each changed bit without a CRC.",
            )

    def lay_out(self, arrays: Sequence[Array], metadata: Mapping[str, Any], aliases: Mapping[str, str]) -> Layout:
        """Lay out a file, as `ckpt_plan.plan` and `safetensors.plan` do, with the same errors."""
        if self.format == "safetensors":
            return safetensors.plan(arrays, metadata, aliases, crc=self.crc_check)
        layout, around = ckpt_plan.plan(arrays, metadata, aliases), self.around()
        return layout if around is None else Filtered(layout, around)

    def around(self) -> Filter | None:
        """What goes around the bytes of a `.ckpt`."""
        if self.enc_key is not None:
            return encryption.Encryption(self.enc_key, self.enc_mode)
        return Trailer() if self.crc_check else None


PLAIN = Packaging()
"""A `.ckpt` with nothing around it."""
