"""The examples of the docstrings run, and say what happens."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import milepost

SOURCE = Path(milepost.__file__).parent
MODULES = sorted(
    "milepost." + ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_are_true(module):
    """A reader can type them in."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0
