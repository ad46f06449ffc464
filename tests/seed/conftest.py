"""What the tutorial's snippets take as given: a network, a data set of 32 batches, and a folder to run in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resnet50 import ResNet50 as RealResNet50


class SmallNet(nn.Module):
    """A convolution, a batch norm and a head: parameters and buffers, trained in no time."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture(params=[SmallNet, pytest.param(RealResNet50, marks=pytest.mark.slow)], ids=["small", "resnet50"])
def ResNet50(request):
    """The network's class: a small one in the fast tests, the real one in the slow ones."""
    return request.param


@pytest.fixture
def small_net():
    """The small one's class, where the network does not matter."""
    return SmallNet


@pytest.fixture
def dataset():
    """32 batches an epoch, as in the tutorial's file names."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(10, (64,), generator=generator)), batch_size=2)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The snippets write to the current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
