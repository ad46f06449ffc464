"""ResNet-50 from scratch, with the names and shapes of torchvision's parameters. No data and no training here."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

BLOCKS_PER_STAGE = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1 narrows, 3x3 sees, 1x1 widens; added to what came in. The stride is on the 3x3 (torchvision's v1.5).

    Args:
        in_channels: Channels of the input.
        width: Channels of the 3x3 convolution.
        stride: By how much height and width shrink.
    """

    expansion = 4  # output channels per channel of `width`

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.relu(self.bn2(self.conv2(x)), inplace=True)
        x = self.bn3(self.conv3(x))
        return functional.relu(x + identity, inplace=True)


class ResNet50(nn.Module):
    """The 50-layer residual network: images in, one logit per class out.

    Args:
        num_classes: Logits per image.
        in_channels: 1 for grey images, 3 for coloured ones.

    Example:
        >>> import torch
        >>> ResNet50()(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])

    Source: He et al., Deep Residual Learning for Image Recognition (https://arxiv.org/abs/1512.03385).
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, BLOCKS_PER_STAGE[0], stride=1)
        self.layer2 = _stage(256, 128, BLOCKS_PER_STAGE[1], stride=2)
        self.layer3 = _stage(512, 256, BLOCKS_PER_STAGE[2], stride=2)
        self.layer4 = _stage(1024, 512, BLOCKS_PER_STAGE[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, num_classes) of images (N, in_channels, height, width)."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    rest = [Bottleneck(width * Bottleneck.expansion, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)
