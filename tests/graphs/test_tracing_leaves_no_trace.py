import logging
import random
import threading

import numpy as np
import pytest
import torch
from torch import nn

from milepost.errors import GraphError
from milepost.graphs import graph_meta
from milepost.graphs.guard import untouched


class Busy(nn.Module):
    """Has every kind of thing that tracing could disturb."""

    def __init__(self, *, fails):
        super().__init__()
        self.fails = fails
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.dropout = nn.Dropout(0.5).eval()
        self.register_buffer("calls", torch.tensor(0))
        self.lock = threading.Lock()  # cannot be copied
        self.count, self.seen, self.cache = 0, [], None

    def forward(self, x):
        self.count += 1
        self.calls += 1
        self.seen.append(x)
        self.cache = self.dropout(self.frozen(self.norm(x)))
        result = self.lstm(self.cache[:, None])[0]
        if self.fails and result.sum() > 0:
            return -result
        return result + torch.rand(4)


def portrait(net):
    """All that must be equal before and after."""
    values = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in net.named_parameters()}
    identities = [
        (name, attribute, id(value), [id(item) for item in value] if isinstance(value, list | tuple) else ())
        for name, module in net.named_modules()
        for attribute, value in vars(module).items()
    ]
    tensors = [(name, id(p), p.data_ptr(), p.requires_grad, p._version) for name, p in net.named_parameters()]
    randomness = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    modes = [module.training for module in net.modules()]
    flags = (torch.is_grad_enabled(), logging.getLogger("torch").level)
    return {
        "values": {name: value.tolist() for name, value in values.items()},
        "grads": {name: None if grad is None else grad.tolist() for name, grad in grads.items()},
        "identities": identities,
        "tensors": tensors,
        "randomness": randomness,
        "modes": modes,
        "flags": flags,
    }


@pytest.fixture(params=[False, True], ids=["succeeds", "fails"])
def busy(request):
    net = Busy(fails=False).train()
    net.dropout.eval()
    net(torch.randn(3, 4)).sum().backward()
    net.fails = request.param
    return net


def trace(net):
    try:
        graph_meta(net, torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    except GraphError:
        assert net.fails
    else:
        assert not net.fails


def test_the_module_and_the_random_state_are_as_before(busy):
    """Also on failure: flags of every submodule, identities, values, gradients, attributes, lists."""
    before = portrait(busy)
    trace(busy)
    assert portrait(busy) == before


def test_training_goes_on_as_if_nothing_had_been_traced():
    """A pending backward pass included."""

    def train(*, traced):
        torch.manual_seed(0)
        net = Busy(fails=False).train()
        loss = net(torch.randn(3, 4)).sum()
        if traced:
            trace(net)
        loss.backward()
        torch.optim.SGD(net.parameters(), 0.1).step()
        return net(torch.randn(3, 4)).tolist()

    assert train(traced=True) == train(traced=False)


def test_nothing_is_printed_logged_or_warned(busy, capfd, caplog):
    """Warnings are errors here; torch's own printing and logging is kept in."""
    with caplog.at_level(logging.INFO):
        trace(busy)
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_hooks_of_the_user_are_not_called_and_stay():
    """They would get tensors without values, and most of them only watch."""
    net, calls = nn.Sequential(nn.Linear(4, 2)), []
    for module in net.modules():
        module.register_forward_pre_hook(lambda *_: calls.append("before"))
        module.register_forward_hook(lambda *_: calls.append("after"))
        module.register_full_backward_hook(lambda *_: calls.append("backward"))
    graph_meta(net, torch.randn(3, 4))
    assert calls == []
    net(torch.randn(3, 4, requires_grad=True)).sum().backward()
    assert sorted(calls) == ["after"] * 2 + ["backward"] * 2 + ["before"] * 2


def test_the_graph_does_not_depend_on_the_modes_of_its_caller():
    """Mixed precision or gradients belong to the training."""
    net, x = nn.Linear(4, 2), torch.randn(3, 4)
    expected = graph_meta(net, x)
    with torch.inference_mode():
        assert graph_meta(net, x) == expected
    with torch.autocast("cpu", torch.bfloat16):
        assert graph_meta(net, x) == expected


def test_buffers_that_a_real_call_changes_are_put_back():
    """A module may count in eval mode, too."""
    net = Busy(fails=False).train()
    before = portrait(net)
    with untouched(net), torch.no_grad():
        assert not any(module.training for module in net.modules())
        net(torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    assert portrait(net) | {"tensors": None} == before | {"tensors": None}


class OnValues(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


class OnItem(nn.Module):
    def forward(self, x):
        return x[: int(x[0, 0].item())]


class ThroughNumpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.sin(x.numpy()))


class NoSuchOperator(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x @ x.T).real


class Broken(nn.Module):
    def forward(self, x):
        return {}["mask"] + x


class NotATensor(nn.Module):
    def forward(self, x):
        return x, "text"


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = OnValues()

    def forward(self, x):
        return self.inner(x)


class WithMask(nn.Module):
    """torch looks at the mask's values unless it is told whether the mask is causal."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1, 4), 1, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(x, torch.ones(3, 3))


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (WithMask(), r"in WithMask.forward \(.*\) in TransformerEncoder.forward \(transformer.py, .*is_causal"),
        (
            OnValues(),
            r"a decision that depends on a tensor's values in OnValues.forward \(test_.*: if x.sum\(\) > 0:\)",
        ),
        (Nested(), r"Nested: .* in OnValues.forward \(.*: if x.sum\(\) > 0:\)"),
        (OnItem(), r"a tensor's values in OnItem.forward .*item\(\)"),
        (ThroughNumpy(), r"numpy\(\) is not supported.* in ThroughNumpy.forward"),
        (NoSuchOperator(), r"No ONNX function found for .*linalg_eig"),
        (Broken(), r"KeyError: 'mask' in Broken.forward"),
        (NotATensor(), "'text' among the results"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_traced_is_told_in_a_few_lines(net, found, capfd):
    """Which line of the user's, what is wrong with it, what to do; torch's own report is the cause."""
    with pytest.raises(GraphError, match=found) as raised:
        graph_meta(net, torch.randn(3, 4))
    assert len(str(raised.value)) < 700
    assert len(str(raised.value).splitlines()) == 1
    assert raised.value.__cause__ is not None or isinstance(net, NotATensor)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"x": torch.zeros(1)}, "input 0: found a dict"),
        ((torch.zeros(1, 4), None), "input 1: found a NoneType"),
        ((), "no example input"),
        ((torch.zeros(1, 4), torch.zeros(1, 4)), "too many positional arguments|takes 2 positional"),
        (torch.zeros(1, 5), "Linear|mat1|shape|size"),
    ],
)
def test_inputs_that_forward_cannot_take_are_refused(inputs, found):
    """Before or during the trace, in the same kind of error."""
    with pytest.raises(GraphError, match=found):
        graph_meta(nn.Linear(4, 2), inputs)
