"""Optimizers by name: whatever the order, however they were built."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from milepost.errors import LoadError, MismatchError, NothingLoadedError
from milepost.nn import Momentum
from milepost.state import modules, optimizers
from milepost.state.snapshot import Snapshot

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "Momentum": lambda p: Momentum(p, 0.1, 0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "lr as tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def train(net, optimizer, steps=3):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 4, generator=generator)

        def closure(x=x):
            optimizer.zero_grad()
            loss = net(x).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)


def take(net, optimizer):
    """The saved JSON and tensors, copied as a file would."""
    snapshot = Snapshot()
    optimizers.take(optimizer, modules.parameter_names(net), snapshot)
    tensors = {}
    for name, array in snapshot.arrays.items():
        flat = torch.frombuffer(bytearray(array.content()), dtype=torch.uint8)
        tensors[name] = flat.view(getattr(torch, array.spec.dtype)).reshape(array.spec.shape)
    return json.loads(json.dumps(snapshot.state["optimizer"])), tensors


def put(optimizer, saved, tensors, *, strict=True, names=None):
    prepared = optimizers.prepare(
        optimizer,
        saved,
        lambda name: tensors[name].clone(),
        names=names or {},
        strict=strict,
        where="x.ckpt",
    )
    prepared.apply()
    return prepared.report


def flat(state):
    """A torch state_dict as comparable leaves."""
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.tolist()
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items() if key != "param_names"}
    if isinstance(state, (list, tuple)):
        return type(state), [flat(value) for value in state]
    return state


@pytest.mark.parametrize("named", ["parameters", "named_parameters"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_fresh_optimizer_goes_on_exactly(kind, named):
    """State, groups and learning rates come back, and the next steps are the same to the bit."""
    net = network()
    optimizer = OPTIMIZERS[kind](net.parameters())
    train(net, optimizer)
    saved, tensors = take(net, optimizer)
    twin = network()
    twin.load_state_dict(net.state_dict())
    fresh = OPTIMIZERS[kind](getattr(twin, named)())
    report = put(fresh, saved, tensors)
    assert (report.missing, report.unexpected) == ((), ())
    assert flat(fresh.state_dict()) == flat(optimizer.state_dict())
    train(net, optimizer)
    train(twin, fresh)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_groups_and_changed_learning_rates_come_back():
    """Also what a scheduler has put into the groups."""
    net = network()
    optimizer = torch.optim.SGD([{"params": net[0].parameters(), "lr": 0.5}, {"params": net[2].parameters()}], lr=0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.param_groups[1]["lr"] = 0.025
    saved, tensors = take(net, optimizer)
    fresh = torch.optim.SGD([{"params": net[0].parameters()}, {"params": net[2].parameters()}], lr=9.0)
    put(fresh, saved, tensors)
    assert [(group["lr"], group["initial_lr"]) for group in fresh.param_groups] == [(0.5, 0.5), (0.025, 0.1)]


def test_reordered_and_added_parameters_find_their_state_by_name():
    """The order of parameters is not their identity (pytorch issue 1489)."""
    net = network()
    optimizer = torch.optim.Adam(net.named_parameters())
    train(net, optimizer)
    saved, tensors = take(net, optimizer)
    added = nn.Parameter(torch.zeros(2))
    shuffled = [("new", added), *reversed(list(net.named_parameters()))]
    fresh = torch.optim.Adam(shuffled)
    report = put(fresh, saved, tensors, strict=False)
    assert report.missing == ("new",)
    for parameter in net.parameters():
        assert torch.equal(fresh.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert added not in fresh.state


def test_a_removed_parameter_is_reported():
    """State without a place is named, not dropped in silence."""
    net = network()
    optimizer = torch.optim.Adam(net.named_parameters())
    train(net, optimizer)
    fresh = torch.optim.Adam(net[0].named_parameters(prefix="0"))
    assert put(fresh, *take(net, optimizer), strict=False).unexpected == ("2.weight", "2.bias")
    with pytest.raises(LoadError, match=r"2\.weight"):
        put(fresh, *take(net, optimizer), strict=True)


def test_without_names_another_number_of_parameters_is_refused_with_the_remedy():
    """Position alone would shift every state behind the new parameter."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer)
    with pytest.raises(LoadError, match=r"found 4 parameters; expected 2.*named_parameters"):
        put(torch.optim.Adam(net[0].parameters()), *take(net, optimizer))


def test_a_parameter_of_another_shape_is_refused_and_nothing_has_changed():
    """The check comes before the first change."""
    net, other = network(), nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 5))
    optimizer, fresh = torch.optim.Adam(net.parameters()), torch.optim.Adam(other.parameters(), lr=0.5)
    train(net, optimizer)
    with pytest.raises(MismatchError, match=r"2\.weight: \(2, 3\) in the checkpoint, \(5, 3\) in the target"):
        put(fresh, *take(net, optimizer))
    assert (len(fresh.state), fresh.param_groups[0]["lr"]) == (0, 0.5)


def test_the_state_of_another_kind_of_optimizer_is_refused():
    """Adam's moments mean nothing to SGD."""
    net = network()
    with pytest.raises(LoadError, match="found the state of Adam; expected the state of SGD"):
        put(Momentum(net.parameters(), 0.1, 0.9), *take(net, torch.optim.Adam(net.parameters())))


def test_a_subclass_shares_state_with_its_class():
    """Momentum is torch's SGD by another name."""
    net = network()
    optimizer = Momentum(net.parameters(), 0.1, 0.9)
    train(net, optimizer)
    fresh = torch.optim.SGD(net.parameters(), lr=1.0)
    put(fresh, *take(net, optimizer))
    assert fresh.param_groups[0]["momentum"] == 0.9


def test_without_optimizer_state_nothing_is_loaded_and_that_is_an_error():
    """A resume that looks fine and starts afresh is the worst outcome."""
    with pytest.raises(NothingLoadedError, match="no optimizer state"):
        put(torch.optim.SGD(network().parameters()), None, {})


def test_parameters_of_no_known_name_keep_their_place():
    """An optimizer may step what is not in the network, e.g. a loss with a weight."""
    net, extra = network(), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*net.parameters(), extra], lr=0.1)
    saved, _ = take(net, optimizer)
    assert saved["groups"][0]["params"] == ["0.weight", "0.bias", "2.weight", "2.bias", "#4"]


def test_the_networks_names_win_over_the_order(tmp_path):
    """A resume knows the network: layers of one shape do not take each other's state, in whatever order they come."""
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    optimizer = torch.optim.SGD([*net["a"].parameters(), *net["b"].parameters()], lr=0.1, momentum=0.9)
    net["b"](net["a"](torch.ones(1, 2))).sum().backward()
    optimizer.step()
    twin = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    fresh = torch.optim.SGD([*twin["b"].parameters(), *twin["a"].parameters()], lr=0.1, momentum=0.9)
    put(fresh, *take(net, optimizer), names=modules.parameter_names(twin))
    for name, parameter in twin.named_parameters():
        saved = optimizer.state[net.get_parameter(name)]["momentum_buffer"]
        assert torch.equal(fresh.state[parameter]["momentum_buffer"], saved)


def test_groups_of_modules_that_share_names_are_told_apart():
    """`named_parameters()` of two layers gives "weight" twice; the network's names do not."""
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})

    def build(module):
        groups = [
            {"params": module["a"].named_parameters(), "lr": 0.5},
            {"params": module["b"].named_parameters(), "lr": 0.1},
        ]
        return torch.optim.SGD(groups, momentum=0.9)

    optimizer = build(net)
    net["b"](net["a"](torch.ones(1, 2))).sum().backward()
    optimizer.step()
    fresh = build(net)
    fresh.param_groups[0]["lr"] = 9.0
    put(fresh, *take(net, optimizer), names=modules.parameter_names(net))
    assert [group["lr"] for group in fresh.param_groups] == [0.5, 0.1]


def test_a_group_that_cannot_take_its_options_is_told():
    """Two learning rates do not fit one group: strict refuses, else the report names the group."""
    net = network()
    two = [{"params": net[0].parameters(), "lr": 0.5}, {"params": net[2].parameters(), "lr": 0.1}]
    saved, tensors = take(net, torch.optim.SGD(two))
    fresh = torch.optim.SGD(net.parameters(), lr=0.9)
    with pytest.raises(LoadError, match="the options of parameter group 0"):
        put(fresh, saved, tensors)
    report = put(fresh, saved, tensors, strict=False)
    assert report.missing == ("the options of parameter group 0",)
    assert fresh.param_groups[0]["lr"] == 0.9


class MasterWeights(torch.optim.SGD):
    """An optimizer that keeps float32 copies of low-precision parameters, and counts in integers."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["master"] = parameter.detach().float() + 1e-4
                state["nested"] = [torch.ones(1, dtype=torch.int64), {"deep": torch.full((1,), 0.1)}]


def test_state_keeps_its_own_dtype():
    """torch converts it to the parameter's; but a float32 copy of a bfloat16 weight is there on purpose."""
    net = nn.Linear(2, 2).bfloat16()
    optimizer = MasterWeights(net.parameters(), lr=0.1)
    optimizer.step()
    fresh = MasterWeights(net.parameters(), lr=0.1)
    assert put(fresh, *take(net, optimizer)).cast == ()
    for parameter in net.parameters():
        assert flat(fresh.state[parameter]) == flat(optimizer.state[parameter])
        assert fresh.state[parameter]["master"].dtype == torch.float32


def test_adamw_is_not_adam():
    """One is a subclass of the other in some versions of torch, but their steps differ."""
    net = network()
    saved, tensors = take(net, torch.optim.AdamW(net.parameters()))
    with pytest.raises(LoadError, match="found the state of AdamW; expected the state of Adam"):
        put(torch.optim.Adam(net.parameters()), saved, tensors)


def test_several_optimizers_share_a_checkpoint():
    """Each under its key, with entries whose names begin with it."""
    net = network()
    first, second = torch.optim.Adam(net[0].parameters(), lr=0.5), torch.optim.SGD(net[2].parameters(), momentum=0.9)
    train(net, first, steps=1)
    second.step()
    snapshot = Snapshot()
    optimizers.take(first, modules.parameter_names(net), snapshot, "optimizer.a")
    optimizers.take(second, modules.parameter_names(net), snapshot, key="b")
    assert {key: saved["class"] for key, saved in snapshot.state.items()} == {"optimizer.a": "Adam", "b": "SGD"}
    assert {"optimizer.a.0.weight.exp_avg", "b.2.bias.momentum_buffer"} <= set(snapshot.arrays)
    assert {array.kind for array in snapshot.arrays.values()} == {"optimizer"}


def test_an_option_that_is_a_tensor_stays_on_its_device():
    """A checkpoint is read into the CPU's memory, and torch itself moves only the state of parameters."""
    net = network()

    def build(device):
        return torch.optim.SGD([{"params": net.parameters(), "scale": torch.ones(1, device=device)}])

    saved, tensors = take(net, build("cpu"))
    fresh = build("meta")
    put(fresh, saved, tensors)
    assert fresh.param_groups[0]["scale"].is_meta


class Diary(torch.optim.SGD):
    """An optimizer that keeps all kinds of things."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] = {
                "note": "warm",
                "shape": parameter.shape,
                "seen": Counter([1, 1, 2]),
                "by name": OrderedDict(a=("x", torch.ones(2), None), b=[b"bytes"]),
                "names": {"w"},
                "table": np.arange(3),
                "rate": np.float32(0.1),
            }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_state_that_is_not_tensors_comes_back_as_it_was(dtype):
    """torch takes apart what is iterable when it loads a state: a text becomes another, an array does not pass."""
    net = network()
    optimizer = Diary(net.parameters(), lr=0.1)
    optimizer.step()
    twin = network().to(dtype)
    fresh = Diary(twin.parameters(), lr=0.1)
    put(fresh, *take(net, optimizer))
    for before, after in zip(net.parameters(), twin.parameters(), strict=True):
        expected, state = optimizer.state[before], fresh.state[after]
        assert state.pop("table").tolist() == expected["table"].tolist()
        assert state["by name"]["a"][1].dtype == dtype
        assert {key: type(value) for key, value in state.items()} == {key: type(expected[key]) for key in state}
        assert repr(state).replace(", dtype=torch.float64", "") == repr({key: expected[key] for key in state})
