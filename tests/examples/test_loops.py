"""The short examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["plain_loop", "best_model"])
def test_an_example_fits_on_a_page(name):
    """Under 60 lines."""
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 60


def test_the_plain_loop_goes_on(tmp_path):
    """What it prints after a restart is what a straight run prints."""
    straight = run("plain_loop", "--directory", tmp_path / "a", "--epochs=2")
    assert straight[0] == "from the start"
    again = run("plain_loop", "--directory", tmp_path / "a", "--epochs=2")
    assert again[0].startswith(f"from {tmp_path}")
    assert len(again) == 1


def test_the_best_model_is_as_good_as_it_was_measured(tmp_path):
    """The same figure from the checkpoint and from a new evaluation."""
    *_, best, again = run("best_model", "--directory", tmp_path, "--epochs=2")
    assert best.split()[-1] == again.split()[-1]
