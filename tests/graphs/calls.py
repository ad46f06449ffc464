"""Calls of torch's operators, one kind each, with inputs that fit, for the formats with tables of operators."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional

from milepost.graphs import frontend
from milepost.graphs.guard import untouched


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


X, Y, IMAGE = torch.linspace(-7, 7, 24).view(2, 3, 4), torch.linspace(1, 3, 4), torch.randn(2, 4, 9, 7)
WHOLE = torch.arange(6).view(2, 3)

CALLS = {
    "scalars": (lambda x: 3 - (x + 1) * 2 / 5 - 0.25, X),
    "alpha": (lambda x, y: torch.add(x, y, alpha=2) + torch.sub(y, x, alpha=3), X, Y),
    "integers": (lambda x: (x + 1) * x - 2, WHOLE),
    "mixed dtypes": (lambda x, y: x + y[0, 0], X, WHOLE),
    "integers divided": (lambda x: x / 4, WHOLE),
    "powers": (lambda x: x**2 + (x.abs() + 1) ** 1.5 + 2 * x.abs().sqrt(), X),
    "clamp": (lambda x: x.clamp(-1, 2) + x.clamp(min=0.5) + x.clamp(max=1) + functional.hardtanh(x), X),
    "activations": (lambda x: functional.silu(x) + functional.hardswish(x) + functional.hardsigmoid(x), X),
    "more activations": (lambda x: functional.leaky_relu(x, 0.1) + functional.elu(x, 0.7) + functional.relu6(x), X),
    "self-normalizing": (lambda x: functional.selu(x), X),
    "gelu": (lambda x: (functional.gelu(x), functional.gelu(x, approximate="tanh")), X),
    "functions": (lambda x: x.exp() + x.sin() + x.cos() + x.abs().log() + x.sign() + x.floor() + x.ceil() + x.neg(), X),
    "reciprocals": (lambda x: x.rsqrt() + x.reciprocal() + x.erf(), Y),
    "comparisons": (lambda x, y: torch.where((x > y) | (x < 0) & (x != 1), x, y * 2), X, Y),
    "a comparison as result": (lambda x: (x >= 0, x <= 1, x == 2, ~(x > 3)), X),
    "masked": (lambda x: x.masked_fill(x > 2, 1.5), X),
    "casts": (lambda x: (x.to(torch.int32), x.double(), x.half().float()), X),
    "reductions": (lambda x: x.mean(-1, keepdim=True) + x.sum(1, keepdim=True) + x.amax((0, 2), keepdim=True), X),
    "a mean of all": (lambda x: x.mean((0, 1, 2)) + x.amin(), X),
    "softmaxes": (lambda x: x.softmax(1) + x.log_softmax(-1), X),
    "softmax in another dtype": (lambda x: x.softmax(-1, dtype=torch.float64), X),
    "norms": (lambda x: functional.layer_norm(x, (3, 4)) + functional.group_norm(x, 3), X),
    "permutations": (lambda x: (x.permute(2, 0, -2), x.transpose(-1, 0), x[0].t(), x.mT), X),
    "slices": (lambda x: (x[:, 1:], x[..., ::2], x[1], x[:, -1, 1:3], x[:, None], x.narrow(2, 1, 2)), X),
    "splits": (lambda x: (*x.split(2, -1), *x.chunk(2), *x.unbind(1), *x.split([1, 2], 1)), X),
    "joins": (lambda x, y: (torch.cat([x, x + 1], 1), torch.stack([y, y], -1), torch.cat([y, y[:2]])), X, Y),
    "repeats": (lambda y: (y.expand(3, 4), y.repeat(2, 3), y.view(4, 1).expand(-1, 2)), Y),
    "squeezes": (
        lambda x: (x[:1].squeeze(), x[:1].squeeze(0), x.unsqueeze(-1), x.flatten(), x.unflatten(2, (2, 2))),
        X,
    ),
    "products": (lambda x, y: (x @ y, y @ x.mT, x @ x.mT, x[0] @ x[1].T, x.mT @ x[0], torch.bmm(x, x.mT)), X, Y),
    "broadcast products": (lambda x: x.unsqueeze(1) @ x.mT.unsqueeze(0), X),
    "a linear layer of one vector": (lambda y, w: functional.linear(y, w), Y, X[0]),
    "attention with masks": (
        lambda x: (
            functional.scaled_dot_product_attention(x, x, x, x[0, :, :3] < 1.8)
            + functional.scaled_dot_product_attention(x, x, x, x[:, :, :3], scale=0.3)
        ),
        X + 3,
    ),
    "padding": (lambda image: functional.pad(image, (1, 2, 0, 3)), IMAGE),
    "maxima": (lambda image: functional.max_pool2d(image, (3, 2), (2, 1), (1, 0), ceil_mode=True), IMAGE),
    "means, rounded up": (lambda image: functional.avg_pool2d(image, 3, 2, 1, ceil_mode=True), IMAGE),
    "means to a part": (lambda image: functional.adaptive_avg_pool2d(image, (3, 7)), IMAGE),
    "same padding": (
        lambda image, w: functional.conv2d(image, w, padding="same", dilation=(1, 2)),
        IMAGE,
        torch.randn(5, 4, 3, 3),
    ),
    "groups and strides": (
        lambda image, w: functional.conv2d(image, w, None, (2, 1), (1, 0), 1, 2),
        IMAGE,
        torch.randn(6, 2, 3, 3),
    ),
    "signals": (lambda x, w: functional.conv1d(x, w, None, 2, 1), torch.randn(2, 3, 9), torch.randn(5, 3, 3)),
    "constants": (lambda x: x + torch.arange(4) + torch.ones(3, 4).tril() + torch.full((1,), 2.0), X),
    "an argument as result": (lambda x: (x, x + 1), X),
    "one result twice": (lambda x: (x.relu(), x.relu()), X),
    "scalars as tensors": (lambda x: (x + 1).sum((0, 1, 2)) * torch.tensor(2.0), X),
}


@cache
def traced(name):
    """The call as a network, its inputs, its graph: tracing is what takes time, and one trace serves all formats."""
    function, *inputs = CALLS[name]
    return trace(Fn(function), tuple(inputs))


def trace(net, inputs):
    """A network, its inputs, and its graph."""
    with untouched(net):
        return net, inputs, frontend.graph_of(net, inputs)
