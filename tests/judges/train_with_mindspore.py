"""Trains the twins of tests/judges/twins.py with real MindSpore, in its environment; knows nothing of Milepost.

    python train_with_mindspore.py first FOLDER     trains each case, saves it with save_checkpoint, and trains on
    python train_with_mindspore.py back FOLDER      loads what PyTorch saved in the meantime, by itself, and trains on

FOLDER/<case>.npz gets the batches. FOLDER/<case>.<mode>.npz gets the outputs of what was saved or loaded, the losses of
the steps from there on, and what `load_param_into_net` did not load.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.experimental import optim

STEPS_BEFORE, STEPS_AFTER = 5, 10


class Bottleneck(nn.Cell):
    """Of the r0.6 model zoo: batch normalisation with an epsilon of 1e-4, padding that is longer at the end."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1), norm(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, pad_mode="same"), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out_channels, 1), norm(out_channels, gamma_init="zeros")
        self.relu = nn.ReLU()
        self.has_down_sample = stride != 1 or in_channels != out_channels
        if self.has_down_sample:
            down = nn.Conv2d(in_channels, out_channels, 1, stride, pad_mode="same")
            self.down_sample_layer = nn.SequentialCell([down, norm(out_channels)])

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Three convolutions, added to what came in."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        return self.relu(out + (self.down_sample_layer(x) if self.has_down_sample else x))


class ResNet50(nn.Cell):
    """The attributes and layers of the r0.6 model zoo's resnet50."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, pad_mode="same"), norm(64)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, pad_mode="same")
        channels = 64
        for number, (blocks, out) in enumerate(((3, 256), (4, 512), (6, 1024), (3, 2048)), 1):
            stride = 1 if number == 1 else 2
            cells = [Bottleneck(channels, out, stride), *(Bottleneck(out, out, 1) for _ in range(blocks - 1))]
            setattr(self, f"layer{number}", nn.SequentialCell(cells))
            channels = out
        self.end_point = nn.Dense(2048, 10)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.end_point(x.mean((2, 3)))


def norm(channels: int, gamma_init: str = "ones") -> nn.BatchNorm2d:
    """As the zoo has it; the last of a block begins with zeros."""
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.9, gamma_init=gamma_init)


class Reader(nn.Cell):
    """Words in, a class out: Embedding, two-layer LSTM in both directions, Dense."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm((24,))
        self.fc = nn.Dense(24, 5)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Logits."""
        out, _ = self.lstm(self.embedding(x))
        return self.fc(self.norm(out[:, -1]))


class Transformer(nn.Cell):
    """Words in, a class out: Embedding, Conv1d, an encoder of two layers, PReLU, Dense."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.conv = nn.Conv1d(16, 16, 3, pad_mode="pad", padding=1, has_bias=True)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, activation="relu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.act, self.fc = nn.PReLU(16), nn.Dense(16, 5)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        """Logits."""
        x = self.conv(self.embedding(x).transpose(0, 2, 1)).transpose(0, 2, 1)
        return self.fc(self.act(self.encoder(x).mean(1)))


def images(numbers: np.random.Generator) -> np.ndarray:
    """A batch of small images."""
    return numbers.standard_normal((8, 3, 32, 32), dtype=np.float32)


def words(numbers: np.random.Generator) -> np.ndarray:
    """A batch of short texts."""
    return numbers.integers(0, 50, (8, 7)).astype(np.int32)


CASES = {
    "resnet50-momentum": (ResNet50, images, 10, lambda p: nn.Momentum(p, 0.0003, 0.9)),
    "lstm-adam": (Reader, words, 5, lambda p: nn.Adam(p, 0.01)),
    "lstm-sgd": (Reader, words, 5, lambda p: nn.SGD(p, 0.1, momentum=0.9)),
    "transformer-adamw": (Transformer, words, 5, lambda p: optim.AdamW(p, 0.01)),
    "transformer-momentum": (Transformer, words, 5, lambda p: nn.Momentum(p, [0.1 / (1 + i) for i in range(40)], 0.9)),
}
"""Network, data, classes, optimizer."""

SCHEDULED = ("transformer-momentum",)


def batches(case: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Those before the save, those after it, and one to look at the outputs."""
    numbers = np.random.default_rng(sum(case.encode()))
    _, draw, classes, _ = CASES[case]
    count = STEPS_BEFORE + STEPS_AFTER + 1
    return [(draw(numbers), numbers.integers(0, classes, 8).astype(np.int32)) for _ in range(count)]


def train(net: nn.Cell, optimizer: nn.Cell, data: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The losses of the steps."""
    net.set_train()

    def forward(x: ms.Tensor, y: ms.Tensor) -> ms.Tensor:
        return ops.cross_entropy(net(x), y)

    gradients = ms.value_and_grad(forward, None, optimizer.parameters)
    losses = []
    for x, y in data:
        loss, steps = gradients(ms.Tensor(x), ms.Tensor(y))
        optimizer(steps)
        losses.append(float(loss.asnumpy()))
    return losses


def run(case: str, mode: str, folder: Path) -> None:
    """One case in one of the two modes."""
    ms.set_seed(7)
    kind, _, _, build = CASES[case]
    net = kind()
    optimizer = build(net.trainable_params())
    data = batches(case)
    told: list[str] = []
    if mode == "first":
        train(net, optimizer, data[:STEPS_BEFORE])
        entries = {parameter.name: parameter for parameter in [*net.get_parameters(), *optimizer.get_parameters()]}
        rows = [{"name": name, "data": parameter} for name, parameter in entries.items()]
        ms.save_checkpoint(rows, str(folder / f"{case}.mindspore.ckpt"))
        np.savez(folder / f"{case}.npz", x=np.stack([x for x, _ in data]), y=np.stack([y for _, y in data]))
    else:
        # A list of learning rates is the program's: one number is not put into it.
        kept = {"filter_prefix": "learning_rate"} if case in SCHEDULED else {}
        file = ms.load_checkpoint(str(folder / f"{case}.torch.ckpt"), **kept)
        told = [*ms.load_param_into_net(net, file)[0], *ms.load_param_into_net(optimizer, file)[0]]
    net.set_train(False)
    outputs = net(ms.Tensor(data[-1][0])).asnumpy()
    losses = train(net, optimizer, data[STEPS_BEFORE:-1])
    np.savez(folder / f"{case}.{mode}.npz", outputs=outputs, losses=losses, not_loaded=told)


if __name__ == "__main__":
    for each in CASES:
        run(each, sys.argv[1], Path(sys.argv[2]))
