"""The door tells the truth: each name is where its table says, under the same name for a type checker."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import milepost


@pytest.mark.parametrize("name", sorted(milepost.ROOMS))
def test_every_name_of_the_door_is_in_its_room(name):
    """The table's room has the name, and the door gives that very object."""
    assert getattr(milepost, name) is getattr(importlib.import_module(milepost.ROOMS[name]), name)
    assert name in dir(milepost)


def test_type_checkers_are_told_the_same():
    """The imports under TYPE_CHECKING are the table, row by row."""
    tree = ast.parse(Path(milepost.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert {row.names[0].asname: row.module for row in block.body} == milepost.ROOMS


def test_a_name_that_is_not_there_is_an_attribute_error():
    """`hasattr` and friends work on the door."""
    assert not hasattr(milepost, "load_checkpiont")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("milepost.train.callback", {"ModelCheckpoint", "CheckpointConfig", "Callback", "LossMonitor", "TimeMonitor"}),
        (
            "milepost.train.serialization",
            {"load_checkpoint", "load_param_into_net", "save_checkpoint", "export"},
        ),
        ("milepost.nn", {"Momentum", "SoftmaxCrossEntropyWithLogits", "CrossEntropyLoss"}),
    ],
)
def test_the_tutorials_modules_have_the_tutorials_names(module, names):
    """Only the package's name changes."""
    found = importlib.import_module(module)
    assert names <= set(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)


def test_rooms_are_reached_through_the_door():
    """`import milepost` is enough for milepost.nn.Momentum."""
    code = "import milepost; milepost.nn.Momentum, milepost.errors.SaveError"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_the_door_does_not_import_torch():
    """Tools that only look at files start at once."""
    code = "import sys, milepost; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
