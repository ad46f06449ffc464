"""The table of element types: unambiguous, and in agreement with torch and MindSpore."""

from __future__ import annotations

import pytest
import torch

from milepost.format.dtypes import DTYPES, from_ckpt


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_spelling_leads_back(dtype):
    """No two types share one."""
    assert from_ckpt(dtype.ckpt) is dtype
    assert DTYPES[dtype.name] is dtype


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES.values() if dtype.name != "str"], ids=str)
def test_names_and_sizes_are_torchs(dtype):
    """So that a tensor's memory is a content as it stands."""
    assert torch.empty(0, dtype=getattr(torch, dtype.name)).element_size() == dtype.itemsize


@pytest.mark.parametrize("spelling", ["", "float32", "uint8", "HiFloat8"])
def test_other_spellings_are_unknown(spelling):
    """Not guessed."""
    assert from_ckpt(spelling) is None
