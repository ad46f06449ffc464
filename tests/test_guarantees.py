"""docs/guarantees.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/guarantees.md").read_text())


def test_every_guarantee_has_a_test():
    """Each row of the tables ends with one."""
    rows = re.findall(r"^\| [A-Z].* \|$", (ROOT / "docs/guarantees.md").read_text(), re.M)
    assert len(rows) == len(NAMED) > 30


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_test_of_a_guarantee_exists(path, name):
    """Under the very name."""
    assert f"\ndef {name}(" in (ROOT / path).read_text()
