"""Every source of randomness, taken and set."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from milepost.checkpoint.loading import open_checkpoint
from milepost.checkpoint.saving import store
from milepost.state.random import capture, restore
from milepost.state.snapshot import Snapshot
from milepost.storage.memory import MemoryStorage

DRAWS = {
    "Python": random.random,
    "Python's normal": lambda: random.gauss(0, 1),
    "Python's bits": lambda: random.getrandbits(100),
    "NumPy": np.random.rand,
    "NumPy's normal": np.random.randn,
    "NumPy's integer": lambda: np.random.randint(0, 2**31),
    "torch": lambda: torch.rand(3).tolist(),
    "torch's normal": lambda: torch.randn(1).item(),
    "torch's permutation": lambda: torch.randperm(7).tolist(),
}
"""Normals come in pairs, of which the second waits: it is state too."""


def draw():
    return [draw_one() for draw_one in DRAWS.values()]


def through_a_file(state):
    storage, snapshot = MemoryStorage(), Snapshot()
    snapshot.state["random"] = snapshot.pack(state, "random", "random")
    store(storage, "x.ckpt", snapshot, {})
    return open_checkpoint(storage, "x.ckpt").state("random")


@pytest.fixture(autouse=True)
def _own_state():
    state = capture()
    yield
    restore(state)


@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(sorted(DRAWS)), max_size=20))
def test_all_generators_go_on_as_before(seed, drawn):
    """Wherever they stood, they draw the same numbers again after a way through a file."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    for name in drawn:
        DRAWS[name]()
    state = through_a_file(capture())
    expected = draw() + draw()
    restore(state)
    assert draw() + draw() == expected


def test_what_was_captured_stays_as_it_was():
    """The state of an epoch's start is held while the epoch goes on."""
    state = capture()
    expected = draw()
    np.random.rand(10_000), torch.rand(10_000)
    restore(state)
    assert draw() == expected


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64, np.random.Philox, np.random.SFC64])
def test_numpys_global_generator_may_be_of_any_kind(kind):
    """Their states are of other shapes, with whole numbers of 128 bits."""
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(kind(3))
        np.random.randn()
        state = through_a_file(capture())
        expected = draw()
        restore(state)
        assert draw() == expected
    finally:
        np.random.set_bit_generator(before)


def test_a_loaders_own_generator_goes_on_as_before():
    """A loader with a generator of its own gives the same order again."""
    loader = DataLoader(range(20), shuffle=True, generator=torch.Generator().manual_seed(3))
    state = capture(loader)
    expected = [int(item) for item in loader]
    assert [int(item) for item in loader] != expected
    restore(state, loader)
    assert [int(item) for item in loader] == expected
