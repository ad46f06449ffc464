"""What the hostile tests share: the fuzzer's small files, its way of forging them, and a child that measures memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FUZZ = Path(__file__).parents[2] / "fuzz"
sys.path.insert(0, str(FUZZ))  # scripts that import each other by name

import forge  # noqa: E402
import fuzz_ckpt  # noqa: E402
import make_corpus  # noqa: E402


@pytest.fixture(scope="session")
def corpus():
    """The folder of small sound files."""
    return FUZZ / "corpus"


@pytest.fixture(scope="session")
def small(corpus):
    """A checkpoint of less than 4 KB that Milepost wrote: tensors of every form, tied ones, a text, optimizer state."""
    content = (corpus / "small.ckpt").read_bytes()
    assert len(content) < 4096
    return content


@pytest.fixture(scope="session")
def profile():
    """A file of the profile, to be taken apart and put together with its checksums right."""
    return forge.Profile


@pytest.fixture(scope="session")
def dump():
    """JSON as it should not be, too."""
    return forge.dump


@pytest.fixture(scope="session")
def try_file():
    """Does all that can be done with a file, and lets only errors of Milepost's pass."""
    return fuzz_ckpt.try_file


@pytest.fixture
def trained():
    """A net and its optimizer, as they were when the small files were saved."""
    return make_corpus.trained()


@pytest.fixture(scope="session")
def in_child():
    """Runs Python code in a process of its own; what it prints last, as JSON."""

    def run(code, *arguments, timeout_seconds=120):
        command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, cwd=FUZZ)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors are small."""
    torch.set_num_threads(1)
