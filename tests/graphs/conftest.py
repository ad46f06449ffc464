"""Networks that stand for the kinds that people train, and a judge that is not torch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn


class LeNet(nn.Module):
    """Convolutions, batch norm, dropout; the batch norm's statistics are not what they were at the start."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4 * 3 * 3, 10)

    def forward(self, image):
        return self.head(self.dropout(self.features(image).flatten(1)))


class Tied(nn.Module):
    """One tensor under two names, a constant, a buffer outside the state dict, one that counts, and an unused layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.decoder = nn.Linear(4, 11, bias=False)
        self.decoder.weight = self.embedding.weight
        self.unused = nn.Linear(3, 3)
        self.shift = torch.tensor([1.0, 2.0, 3.0, 4.0])
        self.register_buffer("scale", torch.full((4,), 0.5), persistent=False)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, tokens):
        self.calls += 1
        return self.decoder(self.embedding(tokens) * self.scale + self.shift)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def settle(net, inputs, *, steps=2):
    """Train a little, so that no statistic or weight is at its initial value."""
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        net(*inputs).square().mean().backward()
        optimizer.step()
    return net


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def run():
    """Give a graph to onnxruntime: `run(proto, *inputs)` is a list of arrays."""

    def run(proto, *inputs):
        onnx.checker.check_model(proto, full_check=True)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [value.name for value in proto.graph.input]
        return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})

    return run


@pytest.fixture
def assert_computes(run):
    """Assert that a graph computes what the module does, to 1e-5 of the largest value."""

    def assert_computes(proto, net, *inputs):
        was_training = net.training
        with torch.no_grad():
            wanted = net.eval()(*inputs).numpy()
        net.train(was_training)
        (found,) = run(proto, *inputs)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())

    return assert_computes


@pytest.fixture
def networks():
    """The classes and functions above, and `settle`, for test files."""
    return {"mlp": mlp, "lenet": LeNet, "tied": Tied, "settle": settle}
