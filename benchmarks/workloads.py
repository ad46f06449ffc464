"""What is saved and loaded: names and tensors like those of real trainings. How, is not known here."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


@dataclass(frozen=True)
class Workload:
    """A state by name, and what it is in words."""

    name: str
    state: dict[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.state.values())

    def __str__(self) -> str:
        return f"{self.name}, {len(self.state):,} tensors, {self.nbytes / 1e6:,.0f} MB"


class Live(nn.Module):
    """A module that has the tensors of a state, with memory of its own: what it is loaded into."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            self.register_buffer(name, torch.zeros_like(tensor))


def resnet50(*, is_small: bool) -> Workload:
    """ResNet-50 with momentum."""
    from resnet50 import ResNet50

    net: nn.Module = ResNet50()
    if is_small:
        net = nn.Sequential(net.get_submodule("layer1"))
    return Workload("ResNet-50 with momentum", _state(net, ["momentum_buffer"]))


def transformer(*, is_small: bool) -> Workload:
    """A transformer with Adam's moments, 1.5 GB."""
    width, depth, words = (128, 2, 1000) if is_small else (1024, 9, 16_000)
    layers = [nn.TransformerEncoderLayer(width, width // 64, 4 * width) for _ in range(depth)]
    net = nn.Sequential(nn.Embedding(words, width), *layers)
    return Workload("transformer with Adam's moments", _state(net, ["exp_avg", "exp_avg_sq"]))


def tiny(*, is_small: bool) -> Workload:
    """Many tensors of 100 bytes."""
    count = 1000 if is_small else 20_000
    return Workload("tiny tensors", {f"layer_{number}_weight": torch.randn(25) for number in range(count)})


def _state(net: nn.Module, moments: list[str]) -> dict[str, torch.Tensor]:
    """A module's state, and so many more of each parameter; names are plain, so that any module can have them."""
    state = {_plain(name): tensor.detach().clone() for name, tensor in net.state_dict().items()}
    for moment in moments:
        for name, parameter in net.named_parameters():
            state[_plain(f"optimizer.{name}.{moment}")] = torch.randn_like(parameter) / math.sqrt(parameter.numel())
    return state


def _plain(name: str) -> str:
    return name.replace(".", "_")
