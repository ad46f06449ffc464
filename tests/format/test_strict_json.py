"""JSON for every language: what it is, and what is refused by path."""

from __future__ import annotations

import pytest

from milepost.errors import UnsupportedStateError
from milepost.format import strict_json


def circle():
    loop: list[object] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, float("nan")]}, r"metadata\.a\[1\]"),
        ({"a": float("inf")}, r"metadata\.a"),
        ({"a": {"b": {1, 2}}}, r"metadata\.a\.b"),
        ({1: 2}, "metadata, a key"),
        ({None: 2}, "metadata, a key"),
        ({"a": b"bytes"}, r"metadata\.a"),
        ({"a": "\ud800"}, r"metadata\.a"),
        ({"a": 2**64}, r"metadata\.a"),
        ({"a": 1j}, r"metadata\.a"),
        ({"a": circle()}, r"metadata\.a\[0\]"),
    ],
)
def test_what_json_does_not_have_is_refused_by_path(value, path):
    """Python's own writer passes some of these on, to readers that then fail."""
    with pytest.raises(UnsupportedStateError, match=rf"^{path}.*: found"):
        strict_json.encode(value, "metadata")


def test_tuples_become_lists():
    """JSON has one kind of sequence."""
    assert strict_json.decode(strict_json.encode({"betas": (0.9, 0.999)}, "x")) == {"betas": [0.9, 0.999]}


@pytest.mark.parametrize(
    "text", [b"", b"{", b"NaN", b"-Infinity", b"\xff", b"[" * 100_000, b"9" * 5000, b'{"a":1,"a":2}']
)
def test_what_cannot_have_been_written_is_refused(text):
    """With one kind of error, whatever the parser stumbles over."""
    with pytest.raises(ValueError):  # noqa: PT011 (the parser's own words are not ours to hold fast)
        strict_json.decode(text)


@pytest.mark.parametrize(
    "text", [b"[" * 101 + b"]" * 101, b"1e999", b"[-1e999]", b"18446744073709551616", b'{"\\ud800":1}']
)
def test_what_the_parser_lets_pass_is_refused_by_the_check(text):
    """Numbers that no computer has, texts that cannot be printed, nesting that ends somebody's recursion."""
    with pytest.raises(ValueError):  # noqa: PT011 (as above)
        strict_json.check(strict_json.decode(text))


def test_the_check_lets_pass_what_is_written():
    """At the limits, too."""
    value = {"a": [2**64 - 1, -(2**63), 1.5, None, True, "\U0001f600"]}
    for _ in range(strict_json.DEPTH_LIMIT - 3):
        value = {"a": value}
    strict_json.check(strict_json.decode(strict_json.encode(value, "metadata")))
