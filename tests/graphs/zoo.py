"""Small networks of the kinds that people export, with inputs that fit, for the tests of every file format."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import torch
from tests.graphs.calls import trace
from torch import nn
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[2] / "examples"))


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


class LeNet(nn.Module):
    """The network of 1998: average pooling, tanh."""

    def __init__(self, pool=nn.AvgPool2d):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.pool = pool(2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 2 * 2, 12), nn.Linear(12, 8), nn.Linear(8, 10)

    def forward(self, image):
        x = self.pool(torch.tanh(self.conv1(image)))
        x = self.pool(torch.sigmoid(self.conv2(x))).flatten(1)
        return functional.softmax(self.fc3(functional.relu(self.fc2(self.fc1(x)))), dim=-1)


def vgg():
    """Plain stacks of 3x3, an adaptive pool to the size that is there already, a wide head with dropout."""
    layers, channels = [], 3
    for width in (4, 8):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2, 2)]
        channels = width
    head = [
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        nn.Linear(32, 12),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(12, 5),
    ]
    return nn.Sequential(nn.Sequential(*layers), *head)


class Inverted(nn.Module):
    """MobileNet's block: widen, look at each channel, squeeze and excite, narrow, add."""

    def __init__(self, channels, activation, excite):
        super().__init__()
        wide = channels * 2
        self.widen = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation())
        depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False)
        self.look = nn.Sequential(depthwise, nn.BatchNorm2d(wide), activation())
        self.excite = None
        if excite:
            fc = (nn.Conv2d(wide, 4, 1), nn.ReLU(), nn.Conv2d(4, wide, 1), nn.Hardsigmoid())
            self.excite = nn.Sequential(nn.AdaptiveAvgPool2d(1), *fc)
        self.narrow = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        y = self.look(self.widen(x))
        if self.excite is not None:
            y = y * self.excite(y)
        return x + self.narrow(y)


class MobileNet(nn.Module):
    """v2 with ReLU6, v3 with hard swish and squeeze-and-excitation."""

    def __init__(self, version):
        super().__init__()
        activation = nn.ReLU6 if version == 2 else nn.Hardswish
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), activation())
        self.blocks = nn.Sequential(*(Inverted(8, activation, version == 3) for _ in range(2)))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, image):
        return self.head(self.blocks(self.stem(image)).mean([2, 3]))


class ResNet(nn.Module):
    """Two bottlenecks of the example's ResNet-50, with its stem and its head."""

    def __init__(self):
        super().__init__()
        from resnet50 import Bottleneck

        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Bottleneck(8, 4, 1), Bottleneck(16, 4, 1))
        self.layer2 = Bottleneck(16, 4, 2)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, image):
        x = self.maxpool(functional.relu(self.bn1(self.conv1(image)), inplace=True))
        return self.fc(self.avgpool(self.layer2(self.layer1(x))).flatten(1))


class Bert(nn.Module):
    """Two inputs, two results; the attention by hand, with an additive mask, as Hugging Face writes it."""

    def __init__(self, vocabulary=17, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(12, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down, self.norm2 = nn.Linear(width, 16), nn.Linear(16, width), nn.LayerNorm(width)
        self.pooler = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens, attention_mask):
        places = torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
        x = self.dropout(self.norm(self.words(tokens) + self.places(places)))
        mask = (1.0 - attention_mask[:, None, None, :].to(x.dtype)) * -10000.0
        split = [
            part(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        ]
        scores = split[0] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5 + mask
        seen = (functional.softmax(scores, dim=-1) @ split[2]).permute(0, 2, 1, 3).contiguous()
        x = x + self.output(seen.reshape(x.shape))
        x = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return x, torch.tanh(self.pooler(x[:, 0]))


class Gpt(nn.Module):
    """Causal attention in one fused call, tanh-GELU, and the embedding as the last layer."""

    def __init__(self, vocabulary=17, width=8, heads=2):
        super().__init__()
        self.heads = heads
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(12, width)
        self.ln_1, self.ln_2, self.ln_f = (nn.LayerNorm(width) for _ in range(3))
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens):
        batch, length = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(length, device=tokens.device))
        heads = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(8, 2)
        )
        seen = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.c_proj(seen.transpose(1, 2).reshape(batch, length, -1))
        x = x + self.down(functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))
        return self.lm_head(self.ln_f(x))


class ViT(nn.Module):
    """Patches by a convolution, a class token, torch's own encoder layer."""

    def __init__(self, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width))
        layer = nn.TransformerEncoderLayer(width, 2, 16, activation="gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.places
        return self.head(self.norm(self.encoder(x))[:, 0])


def _image(size=16, channels=3, batch=2):
    return lambda: (torch.randn(batch, channels, size, size),)


def _tokens():
    return torch.randint(17, (2, 5))


ZOO = {
    "mlp": (mlp, lambda: (torch.randn(4, 6),)),
    "lenet": (LeNet, _image(16, 1)),
    "lenet, max pooling": (lambda: LeNet(nn.MaxPool2d), _image(16, 1)),
    "vgg": (vgg, _image(8)),
    "mobilenet v2": (lambda: MobileNet(2), _image()),
    "mobilenet v3": (lambda: MobileNet(3), _image()),
    "resnet": (ResNet, _image(32)),
    "bert": (Bert, lambda: (_tokens(), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))),
    "gpt": (Gpt, lambda: (_tokens(),)),
    "vit": (ViT, _image(8)),
}
"""Name -> what makes the network, and what makes its inputs."""


def make(name):
    """The network, in eval mode and with batch norms that saw something, and inputs for it."""
    torch.manual_seed(0)
    build, inputs = ZOO[name]
    net, example = build(), inputs()
    with torch.no_grad():
        net.train()(*example)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return net.eval(), example


@cache
def traced(name):
    """What `make` gives, and its graph: tracing is what takes time, and one trace serves all formats."""
    return trace(*make(name))


@cache
def resnet50():
    """The example's network for coloured images, inputs for it, and its graph."""
    from resnet50 import ResNet50

    torch.manual_seed(0)
    return trace(ResNet50(10, 3).eval(), (torch.randn(1, 3, 64, 64),))
