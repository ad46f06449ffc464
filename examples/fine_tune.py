"""A network that knows five digits learns all ten: other names, another head, a frozen body.

Run it with ``python examples/fine_tune.py``. The data, scikit-learn's digits, are not defined here.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from digits import create_dataset
from milepost import Model, load_checkpoint, save_checkpoint
from milepost.nn import Momentum, SoftmaxCrossEntropyWithLogits


def new_network(body: str, classes: int) -> nn.Sequential:
    """Some layers called `body`, and a head."""
    layers = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(392, 64))
    return nn.Sequential(OrderedDict([(body, layers), ("activation", nn.ReLU()), ("head", nn.Linear(64, classes))]))


def train(network: nn.Module, epochs: int, classes: range) -> float:
    """Train what is not frozen; return the accuracy on digits that were not seen."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    model = Model(network, SoftmaxCrossEntropyWithLogits(), Momentum(trainable, learning_rate=0.01, momentum=0.9))
    model.train(epochs, create_dataset(None, 32, train=True, classes=classes))
    return model.eval(create_dataset(None, 32, train=False, classes=classes))["accuracy"]


def main(directory: Path) -> None:
    """Train on five digits, save, load into a network for ten, train its head."""
    torch.manual_seed(1)
    old = new_network("features", classes=5)
    print(f"Five digits: {train(old, 3, range(5)):.1%}")
    path = save_checkpoint(old, directory / "five.ckpt")

    new = new_network("body", classes=10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).* were not loaded")  # the report, printed here, says so
        loaded = load_checkpoint(path, net=new, rename={"features.": "body."}, ignore_mismatched=True)
    print(loaded.report)

    new.get_submodule("body").requires_grad_(False)
    print(f"Ten digits, with the body of five: {train(new, 3, range(10)):.1%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
