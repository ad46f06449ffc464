"""Tests that break things on purpose: how much of it, and the figures that come out."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from milepost.storage import local, streams

ROOT = Path(__file__).parents[2]
FIGURES = pytest.StashKey[dict[str, object]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="break far more, and print the figures")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[FIGURES]
    if config.getoption("--torture", default=False) and figures:
        terminalreporter.section("figures")
        width = max(len(label) for label in figures)
        for label, value in figures.items():
            terminalreporter.write_line(f"{label:<{width}}  {value:>8,}")


@pytest.fixture
def figure(request) -> Callable[[str, Any], None]:
    """Keeps a figure for the table that `make torture` prints; counts add up, of times the longest stays."""

    def keep(label: str, value: Any) -> None:
        figures = request.config.stash[FIGURES]
        if label in figures:
            value = max(figures[label], value) if isinstance(value, float) else figures[label] + value
        figures[label] = value

    return keep


@pytest.fixture
def scale(request) -> Callable[[int, int], int]:
    """Picks how often: the first number by default, the second under ``--torture``."""
    is_torture = request.config.getoption("--torture", default=False)
    return lambda default, torture: torture if is_torture else default


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small take ten times as long on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def processes() -> Iterator[ForkServerContext]:
    """Makes real processes in some milliseconds, forked from one that has imported PyTorch and runs no other thread."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            patch.setenv(name, "1")
        context = multiprocessing.get_context("forkserver")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
        context.set_forkserver_preload(["tests.faults.training"])
        process = context.Process(target=os.getpid)  # starts the server while the environment is set
        process.start()
        process.join()
        yield context


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    with mounted("tmpfs", tmp_path / "disk", "-o", "size=4m") as folder:
        yield folder


@pytest.fixture
def past_cache(monkeypatch) -> None:
    """Every file is written as large ones are: reserved, past the page cache, by other threads."""
    from tests.faults.training import write_past_the_cache  # the forkserver imports it, before anything else does

    for module, names in (
        (local, ["DIRECT_NBYTES", "RESERVE_NBYTES", "PastCache"]),
        (streams, ["BUFFER_NBYTES", "IN_PLACE_NBYTES", "MEMORY_ALIGNMENTS"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # so that it is put back
    write_past_the_cache()


@pytest.fixture
def mount() -> type[mounted]:
    """What mounts a file system inside a ``with`` block."""
    return mounted


class mounted:
    """A file system inside a ``with`` block; skips the test where mounting is not allowed."""

    def __init__(self, kind: str, folder: Path, *options: str, source: Path | str = "milepost-test") -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._command = ["mount", "-t", kind, *options, str(source), str(folder)]

    def __enter__(self) -> Path:
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            # A container without util-linux has no way to mount; the same faults are also tried without a mount.
            pytest.skip("there is no mount command")
        if done.returncode:
            # Only root may mount, and many containers forbid it even to root; no test can change that.
            pytest.skip(f"mounting is not allowed: {done.stderr.strip()}")
        return self.folder

    def __exit__(self, *_: object) -> None:
        # Lazily: the lock of a run whose manager a traceback still knows is an open file.
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
