"""Real MindSpore as a judge, in a process and an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
READER = Path(__file__).with_name("read_with_mindspore.py")


@pytest.fixture(scope="session")
def mindspore_python() -> Path:
    """The interpreter that has MindSpore; where there is none, a run in CI fails and any other skips."""
    python = Path(os.environ.get("MILEPOST_MINDSPORE_PYTHON", ROOT / ".venv-mindspore" / "bin" / "python"))
    if not python.exists():
        reason = f"no Python with MindSpore at {python}; see tests/judges/requirements.txt"
        # `make test-slow` installs it, and CI must have it; a bare pytest without network still judges all else.
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return python


@pytest.fixture(scope="session")
def read_with_mindspore(
    mindspore_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Iterable[Path | dict[str, Any]]], list[dict[str, Any]]]:
    """Paths -> what MindSpore finds in each (see read_with_mindspore.py); one process for all, for it starts slowly.

    In place of a path there may be the settings of its `load_checkpoint`.
    """

    def read(files: Iterable[Path | dict[str, Any]]) -> list[dict[str, Any]]:
        arguments = [json.dumps(file) if isinstance(file, dict) else Path(file).resolve() for file in files]
        command = [mindspore_python, READER, *arguments]
        scratch = tmp_path_factory.mktemp("mindspore")  # it leaves files where it runs
        done = subprocess.run(command, cwd=scratch, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return read
