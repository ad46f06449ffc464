"""State that is not tensors, through JSON and back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import UnsupportedStateError
from milepost.state.values import pack, unpack

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.booleans()
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def there_and_back(value):
    kept = {}
    packed = json.loads(json.dumps(pack(value, "here", kept.__setitem__), allow_nan=False))
    return unpack(packed, kept.__getitem__)


def same(a, b) -> bool:
    """Equality that tells 1 from True and 1.0, and a tuple from a list."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(*pair) for x, y in zip(a.items(), b.items(), strict=True) for pair in zip(x, y, strict=True)
        )
    return a == b


@given(trees)
def test_a_tree_comes_back_with_its_types(tree):
    """Tuples stay tuples, integer keys stay integers, infinities stay infinite."""
    assert same(there_and_back(tree), tree)


def test_nan_comes_back():
    """JSON has no NaN; the state of a diverged training does."""
    assert math.isnan(there_and_back({"loss": float("nan")})["loss"])


def test_tensors_become_entries_named_by_their_path():
    """The JSON refers to tensors, it does not hold them."""
    kept = {}
    tensor = torch.ones(2)
    packed = pack({"a": [0, {"b": tensor}]}, "optimizer.w", kept.__setitem__)
    assert packed == {"a": [0, {"b": {"$entry": "optimizer.w.a.1.b"}}]}
    assert kept == {"optimizer.w.a.1.b": tensor}


def test_numpy_numbers_become_numbers():
    """A learning rate computed with NumPy is a number like any other."""
    assert same(there_and_back([np.float64(0.5), np.int32(3), np.bool_(True)]), [0.5, 3, True])


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, b"bytes", 1j, print, torch.float32], ids=lambda v: type(v).__name__
)
def test_what_cannot_be_stored_is_refused_with_its_path(value):
    """At the save, with the place: never dropped, never at the resume."""
    with pytest.raises(UnsupportedStateError, match=r"^scheduler\.inner\.0: found a .*" + type(value).__name__):
        pack({"inner": [value]}, "scheduler", {}.__setitem__)
