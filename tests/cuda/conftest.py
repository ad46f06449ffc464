"""What runs only where an NVIDIA GPU is; everywhere else these tests are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items):
    """Skip: without a GPU there is nothing that could be looked at."""
    if not torch.cuda.is_available():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(params=["default", "own"])
def stream(request):
    """The stream that the training gives its work to."""
    if request.param == "default":
        yield torch.cuda.current_stream()
    else:
        own = torch.cuda.Stream()
        with torch.cuda.stream(own):
            yield own
    torch.cuda.synchronize()


@pytest.fixture
def hold():
    """Keeps the current stream busy for some tenths of a second, so that what is behind it has not been done yet."""
    return lambda: torch.cuda._sleep(400_000_000)
