"""Make ``corpus/``: small sound files of every kind, with which fuzzing begins. Nothing is changed or loaded here."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from milepost.checkpoint.saving import store
from milepost.clock import Clock
from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec
from milepost.manager import CheckpointManager
from milepost.moment import Moment
from milepost.state import modules, optimizers
from milepost.state.snapshot import Snapshot
from milepost.storage.local import LocalStorage

CORPUS = Path(__file__).parent / "corpus"
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "files"
PREFIX = "net"


class Net(nn.Module):
    """All that a module can have, as small as can be: parameters, a scalar, tied ones, buffers, extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.tied = self.fc
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.bfloat16))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("empty", torch.empty(0, 3))

    def get_extra_state(self) -> object:
        """What a module may keep beside its tensors."""
        return {"seen": 7, "mean": torch.ones(2)}

    def set_extra_state(self, state: object) -> None:
        """Take it back."""


class FixedClock(Clock):
    """A clock that stands, so that the corpus is the same each time it is made."""

    def unix_seconds(self) -> float:
        """The first second of 2024."""
        return 1704067200.0


def trained() -> tuple[Net, torch.optim.Optimizer]:
    """A net, and an optimizer with state after one step."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.named_parameters(), lr=0.01)
    (net.fc(torch.ones(1, 3)).sum() * net.scale).backward()
    optimizer.step()
    return net, optimizer


def save_small(path: Path) -> None:
    """Save what a training saves, without the random state, which is larger than all the rest."""
    net, optimizer = trained()
    snapshot = Snapshot()
    modules.take(net, snapshot)
    optimizers.take(optimizer, modules.parameter_names(net), snapshot)
    snapshot.keep_text("note", "appended", "mile")
    store(LocalStorage(path.parent), path.name, snapshot, {"epoch": 1, "step": 2, "global_step": 2})


def save_training(path: Path) -> None:
    """Save a whole training, as the manager does."""
    random.seed(0)
    np.random.seed(0)
    net, optimizer = trained()
    with tempfile.TemporaryDirectory() as folder:
        manager = CheckpointManager(folder, net, optimizer, prefix=PREFIX, clock=FixedClock())
        manager.start()
        shutil.copyfile(manager.save(Moment(1, 2, 2, steps_per_epoch=4, metrics={"loss": 0.5})), path)


def save_sliced(path: Path) -> None:
    """Save contents that are cut, which at their real length would be 512 MiB each."""
    content = memoryview(bytes(range(100)))
    arrays = [Array(ArraySpec(name, "uint8", (4, 25)), "parameter", lambda: content) for name in ("a", "b")]
    path.write_bytes(b"".join(plan(arrays, {}, {"c": "a"}, slice_nbytes=40).chunks()))


def main() -> None:
    """Make the corpus."""
    CORPUS.mkdir(exist_ok=True)
    for golden in sorted(GOLDEN.glob("*.ckpt")):
        shutil.copyfile(golden, CORPUS / f"mindspore_{golden.name}")
    save_small(CORPUS / "small.ckpt")
    save_training(CORPUS / "training.ckpt")
    save_sliced(CORPUS / "sliced.ckpt")
    (CORPUS / "nothing.ckpt").write_bytes(b"".join(plan([], {}).chunks()))


if __name__ == "__main__":
    main()
