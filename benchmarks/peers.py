"""How other libraries save and load; MindSpore in a process of its own, because it needs another NumPy."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from benchmarks.harness import Cost
from benchmarks.workloads import Live, Workload

ROOT = Path(__file__).parents[1]
MINDSPORE = ROOT / ".venv-mindspore" / "bin" / "python"


def fsync(path: Path) -> None:
    """Make a file, or all files of a folder, durable, and their names."""
    for each in [path, *path.parent.glob(f"{path.name}/*"), path.parent]:
        descriptor = os.open(each, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def save_safetensors(workload: Workload, path: Path) -> None:
    """As users do it."""
    safetensors.torch.save_file(workload.state, path)


def read_safetensors(path: Path) -> object:
    """All of a file by name."""
    return safetensors.torch.load_file(path)


def load_safetensors(live: Live, path: Path) -> None:
    """As users do it."""
    live.load_state_dict(safetensors.torch.load_file(path))


def load_torch(live: Live, path: Path, *, mmap: bool = False) -> None:
    """As users do it."""
    live.load_state_dict(torch.load(path, weights_only=True, mmap=mmap))


def save_dcp(workload: Workload, path: Path, *, sync_files: bool = False) -> None:
    """One process, no process group."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = FileSystemWriter(path, sync_files=sync_files)
        dcp_save(dict(workload.state), storage_writer=writer, no_dist=True)


def load_dcp(live: Live, path: Path) -> None:
    """Into the tensors that are there, which is its way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp_load(dict(live.state_dict()), checkpoint_id=path, no_dist=True)


class MindSpore:
    """A process that has the same state as parameters, and times itself."""

    def __init__(self, workload: Workload) -> None:
        script = Path(__file__).with_name("mindspore_child.py")
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (open for as long as the process lives)
        self._process = subprocess.Popen(
            [MINDSPORE, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        dtypes = {torch.float32: "float32", torch.int64: "int64"}
        shapes = {name: [dtypes[value.dtype], list(value.shape)] for name, value in workload.state.items()}
        self._ask({"do": "make", "shapes": shapes})

    def save(self, path: Path, *, is_durable: bool = False) -> Cost:
        """`mindspore.save_checkpoint`."""
        return self._cost({"do": "save", "path": str(path), "is_durable": is_durable})

    def load(self, path: Path) -> Cost:
        """`mindspore.load_checkpoint` and `load_param_into_net`."""
        return self._cost({"do": "load", "path": str(path)})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _cost(self, order: dict[str, Any]) -> Cost:
        return Cost(**self._ask(order))

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                answer: dict[str, Any] = json.loads(line.removeprefix("answer "))
                return answer
        code = self._process.wait()
        self._said.seek(0)
        said = self._said.read().decode(errors="replace")[-2000:]
        raise SystemExit(f"MindSpore's process ended with {code} at {order['do']!r}: {said}")


def mindspore(workload: Workload) -> MindSpore | None:
    """MindSpore, where its environment is there."""
    return MindSpore(workload) if MINDSPORE.exists() else None
