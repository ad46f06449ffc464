"""Mutants by the thousand, in a process of their own; the long run is ``torture.py``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def torture():
    """The long run's module."""
    spec = importlib.util.spec_from_file_location("hostile_torture", Path(__file__).with_name("torture.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [0])
def test_no_mutant_of_a_checkpoint_crashes_hangs_or_is_taken_for_what_it_is_not(seed, torture):
    """Every way to load it gives what is in the file or an error of Milepost's, soon, and within 64 MiB."""
    found = torture.figures(3000, seed)
    assert found["mutants"] == 3000
    assert 100 < found["opened"] < 2900  # else the mutants were too broken, or not at all
    assert found["slowest_ms"] < 1000
    assert found["growth_mib"] < 64


def test_the_corpus_is_small_and_sound(corpus, try_file):
    """Else nothing is fuzzed but the first check."""
    files = sorted(corpus.glob("*.ckpt"))
    assert sum(path.stat().st_size for path in files) < 200_000
    opened = [path.name for path in files if try_file(path.read_bytes())]
    assert len(opened) == len(files) - 1  # one is encrypted
    assert {path.name for path in files} - set(opened) == {"mindspore_encrypted.ckpt"}
