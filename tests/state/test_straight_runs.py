"""Saved, built afresh and restored, a training goes on to the bit as one that was never interrupted.

Every optimizer and every scheduler that torch has; a new one of torch's fails here until it stands in the table.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils
from torch.optim.optimizer import Optimizer

from milepost.checkpoint.loading import open_checkpoint, prepare
from milepost.checkpoint.saving import store
from milepost.state import modules, objects, optimizers
from milepost.state.snapshot import Snapshot
from milepost.storage.memory import MemoryStorage

BEFORE, AFTER = 4, 6


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def embedding() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten())


def only_matrices(net: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in net.parameters() if parameter.ndim == 2]


OPTIMIZERS = {
    "ASGD": lambda net: torch.optim.ASGD(net.parameters(), t0=2),
    "Adadelta": lambda net: torch.optim.Adadelta(net.parameters()),
    "Adafactor": lambda net: torch.optim.Adafactor(net.parameters()),
    "Adagrad": lambda net: torch.optim.Adagrad(net.parameters(), lr_decay=0.1, initial_accumulator_value=0.1),
    "Adam": lambda net: torch.optim.Adam(net.parameters()),
    "Adam amsgrad": lambda net: torch.optim.Adam(net.parameters(), amsgrad=True),
    "Adam lr as tensor": lambda net: torch.optim.Adam(net.parameters(), lr=torch.tensor(0.01)),
    "Adam foreach": lambda net: torch.optim.Adam(net.parameters(), foreach=True),
    "Adam fused": lambda net: torch.optim.Adam(net.parameters(), fused=True),
    "AdamW": lambda net: torch.optim.AdamW(net.parameters()),
    "Adamax": lambda net: torch.optim.Adamax(net.parameters()),
    "LBFGS": lambda net: torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3, history_size=3),
    "LBFGS wolfe": lambda net: torch.optim.LBFGS(net.parameters(), max_iter=3, line_search_fn="strong_wolfe"),
    "Muon": lambda net: torch.optim.Muon(only_matrices(net)),
    "NAdam": lambda net: torch.optim.NAdam(net.parameters(), decoupled_weight_decay=True, weight_decay=0.1),
    "RAdam": lambda net: torch.optim.RAdam(net.parameters()),
    "RMSprop": lambda net: torch.optim.RMSprop(net.parameters(), momentum=0.9, centered=True),
    "Rprop": lambda net: torch.optim.Rprop(net.parameters()),
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "SparseAdam": lambda net: torch.optim.SparseAdam(net.parameters(), lr=0.1),
}


class Warmup:
    """A schedule with a state of its own, as `LambdaLR` saves it."""

    def __init__(self, rate=1.0):
        self.rate, self.calls = rate, 0

    def __call__(self, epoch):
        self.calls += 1
        return self.rate / self.calls


def sequential(optimizer):
    first = lr_scheduler.LinearLR(optimizer, total_iters=3)
    return lr_scheduler.SequentialLR(optimizer, [first, lr_scheduler.MultiStepLR(optimizer, [2, 3, 3])], [3])


def chained(optimizer):
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, total_iters=5), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    )


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "LambdaLR object": lambda o: lr_scheduler.LambdaLR(o, [Warmup(), Warmup(2.0)]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, Warmup()),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [3, 5, 5, 7]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=6),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=7),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": sequential,
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6, eta_min=1e-3),
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5, cooldown=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=3),
    "CyclicLR function": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=3, scale_fn=lambda x: 0.9**x),
    "CyclicLR object": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, step_size_up=3, scale_fn=Warmup()),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, T_mult=2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=12, three_phase=True),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=8, power=2.0),
    "SWALR": lambda o: swa_utils.SWALR(o, swa_lr=[0.05, 0.01], anneal_epochs=6),
}


def two_groups(lr):
    def build(net):
        groups = [{"params": net[0].parameters(), "lr": lr(0.1)}, {"params": net[2].parameters()}]
        return torch.optim.SGD(groups, lr=lr(0.05), momentum=0.9)

    return build


class Training:
    """A network, its optimizer, and what stands beside them."""

    def __init__(self, build_net, build_optimizer, build_scheduler, scaler=None):
        self.net = build_net()
        self.optimizer = build_optimizer(self.net)
        self.objects = {"scheduler": build_scheduler(self.optimizer)}
        if scaler is not None:
            self.objects["scaler"] = scaler
        self.rates = []

    def steps(self, first, last):
        for step in range(first, last):
            loss = self.step(torch.Generator().manual_seed(step))
            scheduler = self.objects["scheduler"]
            plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
            scheduler.step(loss) if plateau else scheduler.step()
            self.rates.append([float(group["lr"]) for group in self.optimizer.param_groups])

    def step(self, generator):
        if isinstance(self.net[0], nn.Embedding):
            x = torch.randint(0, 4, (8,), generator=generator)
        else:
            x = torch.randn(8, 4, generator=generator)
        scaler = self.objects.get("scaler")

        def closure():
            self.optimizer.zero_grad()
            loss = self.net(x).square().sum()
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss.detach()

        if scaler is None:
            return float(self.optimizer.step(closure))
        loss = closure()
        scaler.step(self.optimizer)
        scaler.update()
        return float(loss)

    def save(self, storage):
        snapshot = Snapshot()
        modules.take(self.net, snapshot)
        optimizers.take(self.optimizer, modules.parameter_names(self.net), snapshot)
        for name, thing in self.objects.items():
            objects.take(name, thing, snapshot)
        store(storage, "x.ckpt", snapshot, {})

    def restore(self, storage):
        parameters = open_checkpoint(storage, "x.ckpt")
        state, fetch = parameters.metadata["state"], parameters.referred()
        names = modules.parameter_names(self.net)
        self.net.load_state_dict({name: parameters[name] for name in self.net.state_dict()})
        loads = [
            optimizers.prepare(self.optimizer, state["optimizer"], fetch, names=names, strict=True, where="x.ckpt"),
            *(objects.prepare(n, thing, state["objects"][n], fetch, "x.ckpt") for n, thing in self.objects.items()),
        ]
        for load in loads:
            load.apply()

    def state(self):
        return flat(
            [
                self.net.state_dict(),
                self.optimizer.state_dict(),
                [thing.state_dict() for thing in self.objects.values()],
            ]
        )


def flat(state):
    """Comparable to the last bit, with types."""
    if isinstance(state, torch.Tensor):
        return state.dtype, tuple(state.shape), state.tolist()
    if isinstance(state, dict):
        return type(state), {key: flat(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state), [flat(value) for value in state]
    return type(state), state


def same_run(build):
    """A straight run, and one that was saved, built afresh and restored, end alike; the latter is given back."""
    straight, saved, fresh, storage = build(), build(), build(), MemoryStorage()
    straight.steps(0, BEFORE + AFTER)
    saved.steps(0, BEFORE)
    saved.save(storage)
    fresh.restore(storage)
    assert fresh.state() == saved.state()
    fresh.steps(BEFORE, BEFORE + AFTER)
    assert saved.rates + fresh.rates == straight.rates
    assert fresh.state() == straight.state()
    assert all(math.isfinite(rate) for rates in straight.rates for rate in rates)
    return straight


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_goes_on_as_in_a_straight_run(kind):
    """Parameters, state and learning rates are equal to the bit six steps later."""
    net = embedding if kind == "SparseAdam" else dense
    same_run(functools.partial(Training, net, OPTIMIZERS[kind], SCHEDULERS["StepLR"]))


@pytest.mark.parametrize("lr", [float, torch.tensor], ids=["number", "tensor"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_scheduler_goes_on_as_in_a_straight_run(kind, lr):
    """The sequence of learning rates is the same, and so is the scheduler's own state."""
    run = same_run(functools.partial(Training, dense, two_groups(lr), SCHEDULERS[kind]))
    assert len({tuple(rates) for rates in run.rates}) > 1, "a schedule that stands still shows nothing"


def kinds_of(module, base):
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {name for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, base) and kind != base}


def test_the_tables_name_everything_that_torch_has():
    """What torch adds is tried before anybody relies on it."""
    assert kinds_of(torch.optim, Optimizer) <= {name.split()[0] for name in OPTIMIZERS}
    assert kinds_of(lr_scheduler, lr_scheduler.LRScheduler) <= {name.split()[0] for name in SCHEDULERS}


def test_a_grad_scaler_goes_on_as_in_a_straight_run():
    """Its scale grows every third step: the count of steps since then is state too."""

    def build():
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        return Training(dense, two_groups(float), SCHEDULERS["StepLR"], scaler)

    assert same_run(build).objects["scaler"].get_scale() == 64.0


def test_an_averaged_model_goes_on_as_in_a_straight_run():
    """It is a module, and counts what it has averaged in a buffer; as an object it is stored just as well."""
    net = dense()
    averaged, fresh = (swa_utils.AveragedModel(net, use_buffers=True) for _ in range(2))
    for _ in range(3):
        with torch.no_grad():
            net[0].weight.mul_(0.9)
        averaged.update_parameters(net)
    snapshot, storage = Snapshot(), MemoryStorage()
    modules.take(averaged, snapshot)
    objects.take("ema", averaged, snapshot)
    store(storage, "x.ckpt", snapshot, {})
    parameters = open_checkpoint(storage, "x.ckpt")
    as_module = prepare(fresh, parameters, strict=True)
    saved = parameters.metadata["state"]["objects"]["ema"]
    as_object = objects.prepare("ema", fresh, saved, parameters.fetch_tensor, "x.ckpt")
    for load in (as_module, as_object):
        with torch.no_grad():
            for tensor in fresh.state_dict().values():
                tensor.zero_()
        load.apply()
        assert flat(fresh.state_dict()) == flat(averaged.state_dict())
    averaged.update_parameters(net)
    fresh.update_parameters(net)
    assert flat(fresh.state_dict()) == flat(averaged.state_dict())
