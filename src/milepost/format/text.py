"""A text <-> the content of a `str` entry, of whatever file. What a text means is not known here."""

from __future__ import annotations

from milepost.errors import UnsupportedStateError
from milepost.format import strict_json
from milepost.format.wire import damaged


def encode_text(text: str) -> bytes:
    """Return a text as the content of a `str` entry: UTF-32-LE without a byte order mark, never empty.

    Raises:
        UnsupportedStateError: The text has no form in Unicode, or ends in NUL, which MindSpore takes for filling.

    >>> encode_text("a").hex(), encode_text("").hex()
    ('61000000', '00000000')
    """
    if text.endswith("\0") or not strict_json.is_unicode(text):
        raise UnsupportedStateError(
            "text",
            found=repr(text[-40:]),
            expected="Unicode that does not end in NUL",
            remedy="Store it as an array of uint8.",
        )
    return text.encode("utf-32-le") or bytes(4)


def decode_text(content: bytes | bytearray | memoryview, where: str = "text") -> str:
    """Return the text that a `str` entry holds.

    Raises:
        DamagedCheckpointError: The content is no UTF-32-LE.

    >>> decode_text(bytes(4))
    ''
    """
    try:
        return str(content, "utf-32-le").rstrip("\0")
    except UnicodeDecodeError as error:
        raise damaged(where, error.start, "no Unicode character", "a text in UTF-32-LE") from error
