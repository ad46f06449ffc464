"""Real runs to look at, and the command line, called as `main` calls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from milepost import CheckpointConfig, CheckpointManager
from milepost.cli.app import run
from milepost.engine.reader import Reader
from milepost.storage.local import LocalStorage

SCHEMAS = Path(__file__).parents[2] / "docs/schemas"


@dataclass
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object that it printed."""
        return json.loads(self.out)


@pytest.fixture
def milepost(capfd, monkeypatch) -> Callable[..., Done]:
    """Runs a command; what it prints with --json is held to its schema."""
    monkeypatch.delenv("COLUMNS", raising=False)  # some runners of tests set it

    def call(*arguments: object) -> Done:
        code = run(list(map(str, arguments)))
        done = Done(code, *capfd.readouterr())
        if "--json" in arguments and done.out:
            schema = json.loads((SCHEMAS / f"{arguments[0]}.json").read_text())
            jsonschema.Draft202012Validator(schema).validate(done.json)
        return done

    return call


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8))
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.layers(x))


def train(directory: Path, accuracies: list[float], prefix: str = "net") -> None:
    """A run with a checkpoint for each epoch of two steps, and its accuracy."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    config = CheckpointConfig(save_checkpoint_steps=2, keep_checkpoint_max=0, monitor="accuracy")
    with CheckpointManager(directory, net, optimizer, prefix=prefix, config=config) as checkpoints:
        progress = checkpoints.start()
        for epoch in progress.epochs(len(accuracies)):
            for batch in progress.steps([torch.randn(3, 4), torch.randn(3, 4)]):
                optimizer.zero_grad()
                loss = net(batch).square().mean()
                loss.backward()
                optimizer.step()
                checkpoints.step(loss=loss)
            checkpoints.report(accuracy=accuracies[epoch - 1])


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    train(directory, [0.5, 0.9, 0.7, 0.6])
    train(directory, [0.1])
    return directory


@pytest.fixture
def runs(trained, tmp_path) -> Path:
    """A folder with two runs of one prefix: four checkpoints, the second the best; and one."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def damaged(runs) -> Path:
    """A checkpoint of the first run with a flipped bit in the content of `head.weight`."""
    path = runs / "net-2_2.ckpt"
    content = bytearray(path.read_bytes())
    content[_place_of(path, "head.weight")] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture
def place_of() -> Callable[[Path, str], int]:
    """Tells where in a file the content of an entry begins."""
    return _place_of


def _place_of(path: Path, name: str) -> int:
    with Reader(LocalStorage(path.parent), path.name) as reader:
        return reader.entry(name).extents[0].offset
