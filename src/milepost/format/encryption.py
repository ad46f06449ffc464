"""MindSpore's encryption: a stream of bytes <-> blocks of cipher text. What the stream holds is not known here.

A block is, little-endian: the mode's magic (u32); with AES-GCM the tag (16 bytes); the length of what follows (i32);
the length of the initialisation vector, 16 (i32); the vector; the length of the cipher text (i32); the cipher text.
Source: MindSpore's ``mindspore/ccsrc/utils/crypto.cc``. Its AES-GCM takes the vector's first 12 bytes as the nonce,
and no further data; its CBC modes fill up as PKCS#7 does.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from milepost.errors import DecryptionError, MissingExtraError, SettingError, SettingTypeError
from milepost.format.spec import Source
from milepost.format.wire import damaged

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher

VECTOR_NBYTES = 16
NONCE_NBYTES = 12
BLOCK_NBYTES = 16
"""A block of the ciphers, to which the CBC modes fill up."""

CHUNK_NBYTES = 4 << 20
"""Bytes of the stream in one block of a file that is written; MindSpore takes any number up to 64 MiB."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to encrypt.

    Args:
        name: MindSpore's name of it.
        magic: How its blocks begin.
        algorithm: The cipher's name in `cryptography`.
        tag_nbytes: Bytes of the tag that authenticates a block; 0 where nothing does.
        key_nbytes: How long a key can be.
    """

    name: str
    magic: bytes
    algorithm: str
    tag_nbytes: int
    key_nbytes: tuple[int, ...]

    @property
    def head_nbytes(self) -> int:
        """Bytes in front of a block's cipher text."""
        return len(self.magic) + self.tag_nbytes + 4 + 4 + VECTOR_NBYTES + 4


MODES = {
    mode.name: mode
    for mode in (
        Mode("AES-GCM", (0x7F3A5ED8).to_bytes(4, "little"), "AES", 16, (16, 24, 32)),
        Mode("AES-CBC", (0x7F3A5ED9).to_bytes(4, "little"), "AES", 0, (16, 24, 32)),
        Mode("SM4-CBC", (0x7F3A5EDA).to_bytes(4, "little"), "SM4", 0, (16,)),
    )
}
"""MindSpore's name to mode."""

DEFAULT = "AES-GCM"
"""The mode that is meant where none is named; the one that tells whether a bit was changed."""


def mode_of(source: Source) -> Mode | None:
    """Return how a file is encrypted, or None for one that is not."""
    start = source.read(0, min(source.nbytes, 4))
    return next((mode for mode in MODES.values() if start == mode.magic), None)


def checked_mode(key: object, mode: object, prefix: str) -> Mode:
    """Return the mode of that name, if the key is one for it.

    Args:
        key: The key, bytes.
        mode: The name of the mode.
        prefix: How the settings are called: ``enc`` or ``dec``.

    Raises:
        SettingError: One of them cannot be meant, or this installation does not have the cipher.
        MissingExtraError: The package `cryptography` is not installed.
    """
    found = MODES.get(mode) if isinstance(mode, str) else None
    if found is None:
        raise SettingError(
            f"{prefix}_mode", found=repr(mode), expected="one of " + ", ".join(MODES), remedy="Choose one of these."
        )
    if not isinstance(key, bytes):
        raise SettingTypeError(
            f"{prefix}_key", found=f"a {type(key).__name__}", expected="bytes", remedy="Give the key itself, as bytes."
        )
    if len(key) not in found.key_nbytes:
        lengths = " or ".join(map(str, found.key_nbytes))
        raise SettingError(
            f"{prefix}_key",
            found=f"{len(key)} bytes",
            expected=f"{lengths} for {found.name}",
            remedy="Give the whole key; a password is none.",
        )
    try:
        _cipher(found, key, bytes(VECTOR_NBYTES)).encryptor()
    except ImportError as error:
        raise MissingExtraError.of("encryption", extra="crypto", missing="cryptography") from error
    except Exception as error:  # UnsupportedAlgorithm, of the package that may be missing
        raise SettingError(
            f"{prefix}_mode",
            found=f"an OpenSSL without {found.name} ({error})",
            expected="one that has it",
            remedy="Install a build of cryptography that has it.",
        ) from error
    return found


def _cipher(mode: Mode, key: bytes, vector: bytes, tag: bytes | None = None) -> Cipher[Any]:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    operation = modes.GCM(vector[:NONCE_NBYTES], tag) if mode.tag_nbytes else modes.CBC(vector)
    return Cipher(getattr(algorithms, mode.algorithm)(key), operation)


class Encryption:
    """Encrypts one stream, in blocks; a `Filter`. Memory holds one of them.

    Args:
        key: 16, 24 or 32 bytes (SM4: 16).
        mode: A name of `MODES`.
    """

    def __init__(self, key: bytes, mode: str) -> None:
        self._key = key
        self._mode = checked_mode(key, mode, "enc")
        self._pending = bytearray()

    def nbytes_of(self, nbytes: int) -> int:
        """How many bytes `nbytes` become."""
        whole, rest = divmod(nbytes, CHUNK_NBYTES)
        return whole * self._block_nbytes(CHUNK_NBYTES) + (self._block_nbytes(rest) if rest else 0)

    def _block_nbytes(self, nbytes: int) -> int:
        filled = nbytes if self._mode.tag_nbytes else nbytes + BLOCK_NBYTES - nbytes % BLOCK_NBYTES
        return self._mode.head_nbytes + filled

    def take(self, chunk: memoryview | bytes) -> Iterator[bytes]:
        """Take in the next bytes, and give the blocks that are full."""
        rest = memoryview(chunk)
        while rest:
            room = CHUNK_NBYTES - len(self._pending)
            self._pending += rest[:room]
            rest = rest[room:]
            if len(self._pending) == CHUNK_NBYTES:
                yield self._block()

    def finish(self) -> Iterator[bytes]:
        """Give the last block."""
        if self._pending:
            yield self._block()

    def _block(self) -> bytes:
        content, self._pending = self._pending, bytearray()
        mode = self._mode
        vector = os.urandom(VECTOR_NBYTES)
        if not mode.tag_nbytes:
            filling = BLOCK_NBYTES - len(content) % BLOCK_NBYTES
            content += bytes([filling]) * filling
        encryptor = _cipher(mode, self._key, vector).encryptor()
        cipher_text = encryptor.update(content) + encryptor.finalize()
        return b"".join(
            (
                mode.magic,
                encryptor.tag if mode.tag_nbytes else b"",
                (4 + VECTOR_NBYTES + 4 + len(cipher_text)).to_bytes(4, "little"),
                VECTOR_NBYTES.to_bytes(4, "little"),
                vector,
                len(cipher_text).to_bytes(4, "little"),
                cipher_text,
            )
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a block's parts stand in the file, and how long its content is."""

    vector: bytes
    tag: bytes
    offset: int
    length: int
    nbytes: int


class Decrypted:
    """An encrypted file as the stream that was encrypted; memory holds one block of it.

    Args:
        source: The file.
        where: The file's place in words, for messages.
        key: The key that it was encrypted with.
        mode: The name of the mode. It has to be the file's own: who expects AES-GCM is not to be given what anybody
            could have changed.

    Raises:
        SettingError: Key or mode cannot be meant.
        MissingExtraError: The package `cryptography` is not installed.
        DecryptionError: The file does not open with them.
        DamagedCheckpointError: The blocks do not fit into the file.
    """

    def __init__(self, source: Source, where: str, key: bytes, mode: str) -> None:
        self.where = where
        self._source = source
        self._key = key
        self._mode = checked_mode(key, mode, "dec")
        found = mode_of(source)
        if found is not self._mode:
            raise DecryptionError(
                where,
                found=f"a file encrypted with {found.name}" if found else "a file that is not encrypted",
                expected=self._mode.name,
                remedy=f'Give dec_mode="{found.name}".' if found else "Leave out dec_key.",
            )
        self._blocks = list(self._walk())
        self._ends = list(accumulate(block.nbytes for block in self._blocks))
        self.nbytes = self._ends[-1]
        self._held: tuple[int, bytes] = (-1, b"")

    @property
    def is_authentic(self) -> bool:
        """Whether what opens is what was encrypted with the key."""
        return self._mode.tag_nbytes > 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset`."""
        content = bytearray(length)
        self.readinto(offset, memoryview(content))
        return bytes(content)

    def readinto(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (flat, format ``B``) from `offset`.

        Raises:
            DecryptionError: A block does not open.
        """
        done = 0
        while done < len(buffer):
            number = bisect_right(self._ends, offset + done)
            if number == len(self._blocks):
                raise damaged(
                    self.where, self.nbytes, "the end of the file", f"content up to byte {offset + len(buffer)}"
                )
            begin = offset + done - (self._ends[number] - self._blocks[number].nbytes)
            part = memoryview(self._content(number))[begin : begin + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def _content(self, number: int) -> bytes:
        if self._held[0] != number:
            self._held = (-1, b"")  # two at once would need twice the memory
            self._held = number, self._open(self._blocks[number])
        return self._held[1]

    def _open(self, block: _Block) -> bytes:
        cipher_text = self._source.read(block.offset, block.length)
        decryptor = _cipher(self._mode, self._key, block.vector, block.tag or None).decryptor()
        content = decryptor.update(cipher_text)
        try:
            content += decryptor.finalize()
        except Exception as error:  # InvalidTag, of a package that is imported when it is used
            raise self._closed(block.offset) from error
        return content[: block.nbytes]

    def _walk(self) -> Iterator[_Block]:
        """Find the blocks; of their contents no more is looked at than tells how long they are."""
        mode, at, end = self._mode, 0, self._source.nbytes
        while at < end:
            offset = at + mode.head_nbytes
            if offset > end:
                raise damaged(self.where, at, f"{end - at} bytes", f"a block, whose head has {mode.head_nbytes}")
            head = self._source.read(at, mode.head_nbytes)
            behind = len(mode.magic) + mode.tag_nbytes
            tag, vector = head[len(mode.magic) : behind], head[behind + 8 : behind + 8 + VECTOR_NBYTES]
            block_nbytes, vector_nbytes, length = (
                int.from_bytes(head[place : place + 4], "little") for place in (behind, behind + 4, len(head) - 4)
            )
            if head[:4] != mode.magic:
                raise damaged(self.where, at, head[:4].hex(" "), f"a block of {mode.name}")
            if vector_nbytes != VECTOR_NBYTES or block_nbytes != 4 + VECTOR_NBYTES + 4 + length:
                # MindSpore 1.3 to 1.6 had the magic of AES-GCM for both modes, and no tag: nothing says what was meant.
                raise damaged(
                    self.where, at, "lengths that do not fit each other", "a block as MindSpore writes it since 1.7"
                )
            if length == 0 or length > end - offset or (not mode.tag_nbytes and length % BLOCK_NBYTES):
                raise damaged(
                    self.where, at, f"a cipher text of {length} bytes", f"one within the file, for {mode.name}"
                )
            nbytes = length if mode.tag_nbytes else length - self._filling(vector, offset, length)
            yield _Block(vector, tag, offset, length, nbytes)
            at = offset + length

    def _filling(self, vector: bytes, offset: int, length: int) -> int:
        """How many bytes fill up the last block of a cipher text: all have their own number as value."""
        last = self._source.read(offset + length - BLOCK_NBYTES, BLOCK_NBYTES)
        before = (
            vector if length == BLOCK_NBYTES else self._source.read(offset + length - 2 * BLOCK_NBYTES, BLOCK_NBYTES)
        )
        content = _cipher(self._mode, self._key, before).decryptor().update(last)
        filling = content[-1]
        if not 1 <= filling <= BLOCK_NBYTES or content[-filling:] != bytes([filling]) * filling:
            raise self._closed(offset)
        return filling

    def _closed(self, offset: int) -> DecryptionError:
        return closed(f"{self.where}, byte {offset}")


def closed(where: str) -> DecryptionError:
    """The error for cipher text that this key does not open, or not to anything that can be."""
    return DecryptionError(
        where,
        found="a cipher text that does not open",
        expected="the key that it was encrypted with, and every bit as it was saved",
        remedy="Check dec_key; if it is the right one, the file was changed, so load an earlier checkpoint.",
    )
