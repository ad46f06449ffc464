"""A small real task: three clouds of points, which a small network learns in a few epochs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small take ten times as long on several threads, which wait for each other on busy machines."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def blobs() -> Batches:
    """Eleven batches of 8 points, and a last one of 3, around three centres."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(3, (91,), generator=generator)
    points = torch.randn(91, 4, generator=generator) + 3.0 * torch.eye(3, 4)[labels]
    return list(zip(points.split(8), labels.split(8), strict=True))


@pytest.fixture
def make_network() -> Callable[[], torch.nn.Module]:
    """Makes the same small classifier each time, with dropout and batch normalisation for the modes to matter."""

    def make() -> torch.nn.Module:
        torch.manual_seed(3)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(16, 3),
        )

    return make
