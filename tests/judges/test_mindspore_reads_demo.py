"""Real MindSpore opens every file that the demo writes, and finds in it what Milepost finds."""

from __future__ import annotations

import hashlib

import pytest
import torch

from milepost import load_checkpoint

pytestmark = pytest.mark.slow


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()


def test_mindspore_reads_every_checkpoint_of_the_demo(told_twice, read_with_mindspore):
    """Each parameter, buffer and optimizer entry, bit for bit."""
    folder, _ = told_twice
    paths = sorted(folder.glob("*.ckpt"))
    assert len(paths) == 8
    for path, judged in zip(paths, read_with_mindspore(paths), strict=True):
        entries = {entry["name"]: (entry["shape"], entry["sha256"]) for entry in judged["entries"]}
        parameters = load_checkpoint(path)
        ours = {name: (list(value.shape), digest(value)) for name, value in parameters.items()}
        assert len(ours) >= 320
        assert ours.items() <= entries.items(), path
        beside = {name.split(".")[0] for name in entries.keys() - ours.keys()}
        assert beside <= {"random", "random_at_epoch_start"}, path
