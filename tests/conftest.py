"""What tests of several folders share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "examples" / "demo.py"


@pytest.fixture(scope="session")
def tell() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the demo with arguments."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, DEMO, *arguments]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="session")
def told_twice(tell, tmp_path_factory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """The demo, small, told twice into one folder: the folder, and what was told."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, [tell("--directory", folder, "--images=256", "--epochs=2", "--accuracy=0") for _ in range(2)]
