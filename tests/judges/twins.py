"""The PyTorch twins of the networks that tests/judges/train_with_mindspore.py trains.

What the two frameworks do differently by default is here, and not hidden: MindSpore's padding "same" is longer at the
end, its zoo's batch normalisation has an epsilon of 1e-4, its LayerNorm one of 1e-7 (in the encoder 1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from milepost.nn import Momentum


class Same(nn.Conv2d):
    """A convolution whose padding is longer at the end, as MindSpore's "same" is for even inputs and a stride of 2."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(padded(x, self.kernel_size[0], self.stride[0]))


def padded(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
    """The input of a window of that size, so that the output is the input divided by the stride."""
    total = max(kernel - stride, 0) if x.shape[-1] % stride == 0 else max(kernel - x.shape[-1] % stride, 0)
    return functional.pad(x, (total // 2, total - total // 2) * 2, value=value)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-4, momentum=0.1)


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        width = out_channels // 4
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), norm(width)
        self.conv2, self.bn2 = Same(width, width, 3, stride, bias=False), norm(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out_channels, 1, bias=False), norm(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(functional.relu(self.bn2(self.conv2(out)))))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """torchvision's names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = Same(3, 64, 7, 2, bias=False), norm(64)
        channels = 64
        for number, (blocks, out) in enumerate(((3, 256), (4, 512), (6, 1024), (3, 2048)), 1):
            stride = 1 if number == 1 else 2
            parts = [Bottleneck(channels, out, stride), *(Bottleneck(out, out, 1) for _ in range(blocks - 1))]
            setattr(self, f"layer{number}", nn.Sequential(*parts))
            channels = out
        self.fc = nn.Linear(2048, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(padded(x, 3, 2, float("-inf")), 3, 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 12, 2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(24, eps=1e-7)
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.lstm(self.embedding(x))[0][:, -1]))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.conv = nn.Conv1d(16, 16, 3, padding=1)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, layer_norm_eps=1e-5)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.act, self.fc = nn.PReLU(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.embedding(x).transpose(1, 2)).transpose(1, 2)
        return self.fc(self.act(self.encoder(x).mean(1)[..., None])[..., 0])


CASES = {
    "resnet50-momentum": (ResNet50, lambda p: Momentum(p, 0.5, 0.5), "mindspore-r0.6"),
    "lstm-adam": (Reader, lambda p: torch.optim.Adam(p, 0.5), "mindspore"),
    "lstm-sgd": (Reader, lambda p: torch.optim.SGD(p, 0.5, momentum=0.5), "mindspore"),
    "transformer-adamw": (Transformer, lambda p: torch.optim.AdamW(p, 0.01), "mindspore"),
    "transformer-momentum": (Transformer, lambda p: Momentum(p, 0.5, 0.5), "mindspore"),
}
"""Network, optimizer, dialect. Learning rate and momentum come from the checkpoint, where they are in it."""

RATES = {"transformer-momentum": lambda step: 0.1 / (1 + step)}
"""The learning rates that change; the first after a load comes from the checkpoint too."""
