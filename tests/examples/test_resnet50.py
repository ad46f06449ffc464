"""The example network is torchvision's ResNet-50: its names, its shapes, its strides, and its first values."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from resnet50 import Bottleneck, ResNet50


def torchvision_shapes(num_classes: int, in_channels: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of torchvision.models.resnet50, from the paper's table, in its state_dict's order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape

    def norm(name: str, channels: int) -> None:
        for entry in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{entry}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    conv("conv1", 64, in_channels, 7, 7)
    norm("bn1", 64)
    coming = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            conv(f"{name}.conv1", width, coming, 1, 1)
            norm(f"{name}.bn1", width)
            conv(f"{name}.conv2", width, width, 3, 3)
            norm(f"{name}.bn2", width)
            conv(f"{name}.conv3", 4 * width, width, 1, 1)
            norm(f"{name}.bn3", 4 * width)
            if block == 0:
                conv(f"{name}.downsample.0", 4 * width, coming, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            coming = 4 * width
    shapes["fc.weight"], shapes["fc.bias"] = (num_classes, 2048), (num_classes,)
    return shapes


@pytest.mark.parametrize(
    ("num_classes", "in_channels", "parameters"),
    [(1000, 3, 25_557_032), (10, 1, 23_522_250)],
    ids=["ImageNet", "digits"],
)
def test_has_the_names_shapes_order_and_count_of_torchvision(num_classes, in_channels, parameters):
    """Weights from torchvision fit without a single renaming."""
    network = ResNet50(num_classes, in_channels)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert list(shapes.items()) == list(torchvision_shapes(num_classes, in_channels).items())
    assert len(shapes) == 320
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_strides_stand_on_the_3x3_convolutions_and_their_shortcuts():
    """Only the first block of stages 2, 3 and 4 shrinks the image, in conv2 (v1.5) and downsample.0."""
    network = ResNet50()
    strided = {name for name, part in network.named_modules() if isinstance(part, nn.Conv2d) and part.stride == (2, 2)}
    stages = ("layer2", "layer3", "layer4")
    assert strided == {"conv1"} | {f"{stage}.0.{part}" for stage in stages for part in ("conv2", "downsample.0")}


def test_convolutions_begin_with_kaiming_normal_of_their_fan_out():
    """The deviation is sqrt(2 / (output channels * kernel area)), He et al. 2015, so that gradients keep their size."""
    torch.manual_seed(0)
    for name, part in ResNet50().named_modules():
        if isinstance(part, nn.Conv2d):
            expected = math.sqrt(2 / (part.out_channels * math.prod(part.kernel_size)))
            assert part.weight.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("size", [32, 64])
def test_gives_a_logit_per_class_for_images_of_any_size(size):
    """The pooling before the head makes the network independent of the image's size."""
    assert ResNet50(num_classes=7, in_channels=3)(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_a_block_adds_its_input():
    """A block whose last normalisation gives zeros lets a positive image pass unchanged."""
    block = Bottleneck(16, 4, stride=1)
    nn.init.zeros_(block.bn3.weight)
    image = torch.rand(2, 16, 5, 5)
    assert torch.equal(block(image), image)
