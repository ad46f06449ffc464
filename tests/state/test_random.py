"""Every source of randomness, taken and set."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from torch.utils.data import DataLoader

from milepost.state.random import capture, restore
from milepost.state.values import pack, unpack


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_all_generators_go_on_as_before():
    """Python, NumPy (with its cached normal) and torch draw the same numbers again, after a way through JSON."""
    np.random.randn(), random.gauss(0, 1)
    kept = {}
    packed = json.loads(json.dumps(pack(capture(), "random", kept.__setitem__)))
    expected = [draw(), draw()]
    restore(unpack(packed, kept.__getitem__))
    assert [draw(), draw()] == expected


def test_a_loaders_own_generator_goes_on_as_before():
    """A loader with a generator of its own gives the same order again."""
    loader = DataLoader(range(20), shuffle=True, generator=torch.Generator().manual_seed(3))
    state = capture(loader)
    expected = [int(item) for item in loader]
    assert [int(item) for item in loader] != expected
    restore(state, loader)
    assert [int(item) for item in loader] == expected
