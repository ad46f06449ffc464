"""Optimizers from what MindSpore's optimizers left: equals go on, all others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from milepost import load_checkpoint, load_param_into_net
from milepost.errors import LoadError, NothingLoadedError
from milepost.format.wire import bytes_field, varint_field
from milepost.nn import Momentum

GOLDEN = Path(__file__).parents[1] / "golden" / "files"


def network():
    """The twin of what tests/golden/generate.py trains: three steps, at a learning rate of 0.01."""
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))


def once(algorithm, **changes):
    entries = {
        "SGD": {"momentum": 0.9, "learning_rate": 0.25, "global_step": [2]},
        "Adam": {"beta1_power": 0.81, "beta2_power": 0.998001, "learning_rate": 0.25, "global_step": [2]},
    }[algorithm]
    return entries | changes


def moments(*slots):
    """The slots of a Linear(2, 1), and its parameters."""
    net = nn.Linear(2, 1)
    return dict(net.state_dict()) | {
        f"{slot}.{name}": torch.full(value.shape, float(number + 1))
        for number, slot in enumerate(slots)
        for name, value in net.named_parameters()
    }


TYPES = {torch.float32: "Float32", torch.int32: "Int32", torch.int64: "Int64"}


@pytest.fixture
def opened(tmp_path):
    """Writes entries as MindSpore does, and opens the file."""

    def make(entries):
        content = b""
        for name, value in entries.items():
            tensor = torch.as_tensor(value).detach()
            inner = b"".join(varint_field(1, length) for length in tensor.shape)
            inner += bytes_field(2, TYPES[tensor.dtype].encode()) + bytes_field(3, tensor.numpy().tobytes())
            content += bytes_field(1, bytes_field(1, name.encode()) + bytes_field(2, inner))
        path = tmp_path / "mindspore.ckpt"
        path.write_bytes(content)
        return load_checkpoint(path)

    return make


@pytest.mark.parametrize("build", [lambda p: Momentum(p, 0.5, 0.1), lambda p: torch.optim.SGD(p, 0.5, momentum=0.1)])
def test_momentum_goes_on_in_either_of_its_names(build):
    """Moments by the parameters' own names, learning rate and momentum; each renaming is told."""
    net, file = network(), load_checkpoint(GOLDEN / "momentum.ckpt")
    optimizer = build(net.named_parameters())
    report = load_param_into_net(optimizer, file, strict_load=True)
    assert report.renamed == (("1.gamma", "1.weight"), ("1.beta", "1.bias"))
    assert report.loaded == ("0.weight", "1.weight", "1.bias", "3.weight", "3.bias")
    state = [optimizer.state[parameter]["momentum_buffer"] for parameter in net.parameters()]
    for name, buffer in zip(["0.weight", "1.gamma", "1.beta", "3.weight", "3.bias"], state, strict=True):
        assert torch.equal(buffer, file[f"moments.{name}"])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.9)


def test_adam_goes_on_with_the_step_that_its_powers_tell():
    """Both moments, and the bias correction."""
    net, file = network(), load_checkpoint(GOLDEN / "adam.ckpt")
    optimizer = torch.optim.Adam(net.named_parameters())
    load_param_into_net(optimizer, file, strict_load=True)
    state = optimizer.state[net[1].weight]
    assert torch.equal(state["exp_avg"], file["moment1.1.gamma"])
    assert torch.equal(state["exp_avg_sq"], file["moment2.1.gamma"])
    assert state["step"].item() == 3
    net(torch.ones(4, 1, 6, 6)).sum().backward()
    optimizer.step()
    assert state["step"].item() == 4


def test_adam_counts_without_a_global_step(opened):
    """MindSpore 0.6 has the powers, with the shape (1,), and no counter."""
    entries = moments("moment1", "moment2") | {"beta1_power": [0.9**7], "beta2_power": [0.999**7]}
    optimizer = torch.optim.Adam(nn.Linear(2, 1).named_parameters())
    load_param_into_net(optimizer, opened(entries))
    assert {state["step"].item() for state in optimizer.state.values()} == {7}


@pytest.mark.parametrize(("steps", "expected"), [(900, 900), (60_000, 60_000), (200_000, 200_000)])
def test_powers_that_have_vanished_still_count(steps, expected, opened):
    """0.9 ** 900 is nothing in single precision, but 0.999 ** 900 is; beyond both, the counter counts."""
    powers = [torch.tensor(0.9**steps), torch.tensor(0.999**steps)]
    entries = moments("moment1", "moment2") | once("Adam", beta1_power=powers[0], beta2_power=powers[1])
    optimizer = torch.optim.Adam(nn.Linear(2, 1).named_parameters())
    load_param_into_net(optimizer, opened(entries | {"global_step": [steps]}))
    assert {state["step"].item() for state in optimizer.state.values()} == {expected}


def test_other_betas_are_refused(opened):
    """The file has their powers, so they can be checked."""
    optimizer = torch.optim.Adam(nn.Linear(2, 1).named_parameters(), betas=(0.8, 0.999))
    with pytest.raises(LoadError, match=r"powers are 0\.81 and 0\.998.* after 2 steps.*0\.8, 0\.999.*betas"):
        load_param_into_net(optimizer, opened(moments("moment1", "moment2") | once("Adam")))
    assert not optimizer.state


@pytest.mark.parametrize("there", [False, True])
def test_amsgrad_has_to_be_the_same(there, opened):
    """With it the largest second moments go over; on one side only it is refused."""
    entries = moments("moment1", "moment2", *["vhat"] * there) | once("Adam")
    for own in (False, True):
        net = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(net.named_parameters(), amsgrad=own)
        if own == there:
            load_param_into_net(optimizer, opened(entries))
            assert ("max_exp_avg_sq" in optimizer.state[net.weight]) == there
        else:
            with pytest.raises(LoadError, match=f"amsgrad={there}"):
                load_param_into_net(optimizer, opened(entries))


@pytest.mark.parametrize("algorithm", [torch.optim.Adam, torch.optim.AdamW])
def test_the_experimental_adams_go_on_in_both(algorithm, opened):
    """Their state is one; which of them it was, the target says. `amsgrad` is the target's."""
    entries = moments("exp_avg", "exp_avg_sq", "max_exp_avg_sq") | {"state_step": torch.tensor(5, dtype=torch.int32)}
    optimizer = algorithm(nn.Linear(2, 1).named_parameters(), amsgrad=True)
    load_param_into_net(optimizer, opened(entries), strict_load=True)
    assert {(state["step"].item(), state["max_exp_avg_sq"].mean().item()) for state in optimizer.state.values()} == {
        (5, 3)
    }
    optimizer = algorithm(nn.Linear(2, 1).named_parameters())
    with pytest.raises(LoadError, match="amsgrad=True"):
        load_param_into_net(optimizer, opened(entries))
    entries |= {name: torch.zeros_like(value) for name, value in entries.items() if name.startswith("max")}
    load_param_into_net(optimizer, opened(entries), strict_load=True)
    assert all("max_exp_avg_sq" not in state for state in optimizer.state.values())


def test_sgd_that_has_not_stepped_has_no_momentum_yet(opened):
    """`stat` is 1 until the first step, which torch tells by the buffer's absence."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.named_parameters(), 0.1, momentum=0.9, dampening=0.5)
    entries = moments("accum", "stat") | once("SGD")
    entries["stat.bias"] = torch.zeros(1)
    load_param_into_net(optimizer, opened(entries))
    assert [optimizer.state[parameter].get("momentum_buffer") for parameter in net.parameters()] == [None, 1]


def test_a_list_of_learning_rates_gives_the_next(opened):
    """One for each step; the last one stays."""
    net = nn.Linear(2, 1)
    for done, expected in ((1, 0.25), (7, 0.125)):
        optimizer = Momentum(net.named_parameters(), 0.1, 0.9)
        entries = once("SGD", learning_rate=[0.5, 0.25, 0.125], global_step=[done])
        load_param_into_net(optimizer, opened(moments("moments") | entries))
        assert optimizer.param_groups[0]["lr"] == expected


def test_learning_rates_of_groups_stay_the_targets(opened):
    """Which parameters were in which group, MindSpore does not record."""
    optimizer = Momentum(nn.Linear(2, 1).named_parameters(), 0.5, 0.9)
    entries = moments("moments") | once("SGD", learning_rate_group_0=0.125)
    with pytest.warns(UserWarning, match="learning rates"):
        load_param_into_net(optimizer, opened(entries))
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("entries", "build", "message"),
    [
        (moments("moments") | once("SGD"), torch.optim.Adam, r"state of MindSpore's nn\.Momentum.*state of Adam"),
        (moments("moment1", "moment2") | once("Adam"), torch.optim.AdamW, r"nn\.Adam; .*AdamW.*torch\.optim\.Adam,"),
        (moments("adam_m", "adam_v"), torch.optim.AdamW, "AdamWeightDecay, which corrects no bias"),
        (moments("accum"), torch.optim.SGD, r"the state \(accum\) of another optimizer"),
        (moments("moments", "linear") | once("SGD"), torch.optim.SGD, "another optimizer"),
        (moments("moment1", "moment2") | {"beta1_power": 0.9}, torch.optim.Adam, "another optimizer"),
        (moments("exp_avg", "exp_avg_sq") | {"state_step": [3.0]}, torch.optim.AdamW, "from 0 and from -1"),
        (moments("moments", "moment1", "moment2") | once("SGD") | once("Adam"), torch.optim.SGD, "several optimizers"),
        (
            moments("moment1") | {"moment2.weight": torch.ones(1, 2)} | once("Adam"),
            torch.optim.Adam,
            r"no 'moment2\.bias'",
        ),
    ],
)  # fmt: skip
def test_what_torch_cannot_go_on_from_is_refused(entries, build, message, opened):
    """Whose it is, and why; nothing changes."""
    optimizer = build(nn.Linear(2, 1).named_parameters(), lr=0.1)
    with pytest.raises(LoadError, match=message):
        load_param_into_net(optimizer, opened(entries))
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_without_names_nothing_is_matched_by_place():
    """MindSpore has all weights of an LSTM first, and torch layer by layer."""
    with pytest.raises(LoadError, match=r"parameters without names.*named_parameters"):
        load_param_into_net(Momentum(network().parameters(), 0.1, 0.9), load_checkpoint(GOLDEN / "momentum.ckpt"))


def test_a_file_without_an_optimizer_restores_none():
    """As any other."""
    with pytest.raises(NothingLoadedError, match="no optimizer state"):
        load_param_into_net(Momentum(network().named_parameters(), 0.1, 0.9), load_checkpoint(GOLDEN / "cells.ckpt"))
