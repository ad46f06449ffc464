"""MindSpore's encryption: every mode both ways, and nothing but our errors where the key or a bit is another."""

from __future__ import annotations

import random
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import DamagedCheckpointError, DecryptionError, MilepostError, MissingExtraError, SettingError
from milepost.format import encryption
from milepost.format.encryption import MODES, Decrypted, Encryption, mode_of
from milepost.format.spec import Filtered

KEY = b"0123456789abcdef"


class Layout:
    """A file laid out, in chunks of any lengths."""

    def __init__(self, content, step=7):
        self.nbytes, self.released = len(content), 0
        self._content, self._step = content, step

    def chunks(self, _=None):
        for begin in range(0, self.nbytes, self._step):
            yield self._content[begin : begin + self._step]

    def release(self):
        self.released += 1


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that a short file has several."""
    monkeypatch.setattr(encryption, "CHUNK_NBYTES", 64)


def encrypted(content, mode="AES-GCM", key=KEY) -> bytes:
    layout = Filtered(Layout(content), Encryption(key, mode))
    file = b"".join(layout.chunks())
    assert len(file) == layout.nbytes
    return file


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nbytes", [1, 15, 16, 17, 63, 64, 65, 128, 1000])
def test_what_is_encrypted_is_decrypted(mode, nbytes, source_of):
    """At every place, across the borders of blocks, with keys of every length."""
    content = random.Random(nbytes).randbytes(nbytes)
    for key_nbytes in MODES[mode].key_nbytes:
        file = encrypted(content, mode, KEY * 2 if key_nbytes == 32 else (KEY * 2)[:key_nbytes])
        opened = Decrypted(source_of(file), "x", (KEY * 2)[:key_nbytes], mode)
        assert (opened.nbytes, opened.read(0, nbytes)) == (nbytes, content)
        for begin in range(0, nbytes, 13):
            assert opened.read(begin, min(100, nbytes - begin)) == content[begin : begin + 100]
    assert mode_of(source_of(file)).name == mode


def test_two_files_of_one_content_differ():
    """Each block has a vector of its own; a nonce that comes again would give AES-GCM's key away."""
    assert encrypted(bytes(64)) != encrypted(bytes(64))
    blocks = encrypted(bytes(128))
    assert blocks[: len(blocks) // 2] != blocks[len(blocks) // 2 :]


def test_each_bit_that_is_flipped_is_found():
    """With AES-GCM, wherever it is but in the four bytes of the vector that the cipher does not use."""
    content = random.Random(1).randbytes(100)
    file = encrypted(content)
    unused = {offset for begin in (0, 64 + 48) for offset in range(begin + 40, begin + 44)}
    for position in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[position // 8] ^= 1 << position % 8
        source = SimpleNamespace(
            nbytes=len(file), read=lambda offset, length, f=flipped: bytes(f[offset : offset + length])
        )
        try:
            assert Decrypted(source, "x", KEY, "AES-GCM").read(0, 100) == content
        except (DecryptionError, DamagedCheckpointError):
            continue
        assert position // 8 in unused


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_key_does_not_open_a_file(mode, source_of):
    """With a tag at the first block; without one mostly by what fills up the last (here it is seen by it)."""
    with pytest.raises(DecryptionError, match="does not open.*Check dec_key"):
        Decrypted(source_of(encrypted(bytes(100), mode)), "x", KEY[::-1], mode).read(0, 1)


@pytest.mark.parametrize(
    ("key", "mode", "says"),
    [
        (KEY, "AES-CTR", "dec_mode.*AES-CTR"),
        (KEY, None, "dec_mode"),
        ("0123456789abcdef", "AES-GCM", "dec_key.*str"),
        (b"short", "AES-GCM", "dec_key.*5 bytes.*16 or 24 or 32"),
        (KEY * 2, "SM4-CBC", "dec_key.*32 bytes.*16"),
    ],
)
def test_keys_and_modes_that_cannot_be_are_refused(key, mode, says, source_of):
    """Before anything is read."""
    with pytest.raises(SettingError, match=says):
        Decrypted(source_of(b"x"), "x", key, mode)


def test_another_mode_than_the_files_is_refused(source_of):
    """Who expects a tag is not given a file without one; and a file that is not encrypted needs no key."""
    with pytest.raises(DecryptionError, match='AES-CBC; expected AES-GCM.*dec_mode="AES-CBC"'):
        Decrypted(source_of(encrypted(b"a", "AES-CBC")), "x", KEY, "AES-GCM")
    with pytest.raises(DecryptionError, match="not encrypted.*Leave out dec_key"):
        Decrypted(source_of(b"plain"), "x", KEY, "AES-GCM")


def test_blocks_of_mindspore_before_17_are_refused(source_of):
    """They have AES-GCM's magic, no tag, and do not tell their mode: to guess would be to invent bytes."""
    body = (
        (24 + 16).to_bytes(4, "little")
        + (16).to_bytes(4, "little")
        + bytes(16)
        + (16).to_bytes(4, "little")
        + bytes(16)
    )
    with pytest.raises(DamagedCheckpointError, match="since 1.7"):
        Decrypted(source_of(MODES["AES-GCM"].magic + body + bytes(16)), "x", KEY, "AES-GCM")


def test_without_cryptography_the_extra_is_named(source_of, monkeypatch):
    """Nothing else of Milepost needs the package."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    with pytest.raises(MissingExtraError, match=r"milepost\[crypto\]"):
        Decrypted(source_of(MODES["AES-GCM"].magic), "x", KEY, "AES-GCM")


@given(st.sampled_from(sorted(MODES)), st.lists(st.binary(max_size=40), max_size=4), st.data())
def test_any_file_ends_in_our_errors(mode, parts, data):
    """Lengths that lie cost nothing: no more is read than the file has."""
    magic = MODES[mode].magic
    numbers = st.sampled_from([0, 1, 16, 24, 40, 2**31 - 1, 2**32 - 1]).map(lambda number: number.to_bytes(4, "little"))
    file = magic + b"".join(part + data.draw(numbers) for part in parts)
    source = SimpleNamespace(nbytes=len(file), read=lambda offset, length: file[offset : offset + length])
    try:
        opened = Decrypted(source, "x", KEY, mode)
        opened.read(0, opened.nbytes)
    except MilepostError:
        return
    assert not MODES[mode].tag_nbytes  # without a tag, now and then something opens


def test_the_arrays_are_released_with_the_file():
    """So that a snapshot may go on."""
    layout = Layout(b"abc")
    Filtered(layout, Encryption(KEY, "AES-GCM")).release()
    assert layout.released == 1
