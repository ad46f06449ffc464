"""Real MindSpore trains, PyTorch's twin goes on, and back again: the same outputs, the same losses.

Each process of MindSpore runs all cases, because it starts slowly: one that trains and saves, one that loads what
PyTorch has saved in the meantime with nothing but its own `load_checkpoint` and `load_param_into_net`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.judges.twins import CASES, RATES
from torch.nn import functional

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint, load_param_into_net

pytestmark = pytest.mark.slow

TRAINER = Path(__file__).with_name("train_with_mindspore.py")
STEPS_BEFORE, STEPS_AFTER = 5, 10
OUTPUTS, LOSSES = 1e-5, 1e-4


def outputs(net, case):
    net.eval()
    with torch.no_grad():
        return net(case["x"][-1]).numpy()


def train(net, optimizer, case, rates):
    """The losses of the steps after the checkpoint."""
    net.train()
    losses = []
    for step in range(STEPS_BEFORE, STEPS_BEFORE + STEPS_AFTER):
        if rates is not None:
            if step == STEPS_BEFORE:
                assert optimizer.param_groups[0]["lr"] == pytest.approx(rates(step))
            optimizer.param_groups[0]["lr"] = rates(step)
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(case["x"][step]), case["y"][step])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def batches(folder, name):
    """The batches of a case; class numbers and words as torch takes them."""
    with np.load(folder / f"{name}.npz") as found:
        return {key: torch.from_numpy(found[key] if key == "x" and found[key].dtype.kind == "f" else
                                      found[key].astype(np.int64)) for key in ("x", "y")}  # fmt: skip


@pytest.fixture(scope="module")
def judged(mindspore_python, tmp_path_factory):
    """Case -> what PyTorch and MindSpore made of each other's checkpoints, and what was told."""
    folder = tmp_path_factory.mktemp("twins")
    run_mindspore(mindspore_python, "first", folder)
    ours = {}
    for name, (kind, build, dialect) in CASES.items():
        torch.manual_seed(0)
        net = kind()
        optimizer = build(net.named_parameters())
        parameters = load_checkpoint(folder / f"{name}.mindspore.ckpt", net=net, strict_load=True)
        load_param_into_net(optimizer, parameters, strict_load=True)
        case = batches(folder, name)
        found = {"outputs": outputs(net, case)}
        # What has just been loaded is what MindSpore is to go on from.
        config = CheckpointConfig(dialect=dialect)
        with CheckpointManager(folder / name, net, optimizer, config=config) as checkpoints:
            checkpoints.start()
            for _ in range(STEPS_BEFORE):
                checkpoints.progress.count_step()
            checkpoints.save().rename(folder / f"{name}.torch.ckpt")
        found["losses"] = train(net, optimizer, case, RATES.get(name))
        ours[name] = found
    run_mindspore(mindspore_python, "back", folder)
    return {
        name: {
            "torch": ours[name],
            **{mode: dict(np.load(folder / f"{name}.{mode}.npz")) for mode in ("first", "back")},
        }
        for name in CASES
    }


def run_mindspore(python, mode, folder):
    done = subprocess.run([python, TRAINER, mode, folder], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("name", CASES)
def test_pytorch_computes_what_mindspore_saved(name, judged):
    """The twin's outputs are those of the network that was trained."""
    found = judged[name]
    assert np.abs(found["torch"]["outputs"] - found["first"]["outputs"]).max() <= OUTPUTS


@pytest.mark.parametrize("name", CASES)
def test_the_training_goes_on_in_pytorch(name, judged):
    """With the same losses, so with the same moments, steps and learning rates."""
    found = judged[name]
    assert np.abs(np.array(found["torch"]["losses"]) - found["first"]["losses"]).max() <= LOSSES
    assert np.ptp(found["first"]["losses"]) > 100 * LOSSES, "a training whose losses do not move shows nothing"


@pytest.mark.parametrize("name", CASES)
def test_mindspore_loads_what_pytorch_saved_by_itself(name, judged):
    """Every parameter of network and optimizer is found by MindSpore's own two calls, but for a list of rates."""
    assert judged[name]["back"]["not_loaded"].tolist() == ["learning_rate"] * (name in RATES)


@pytest.mark.parametrize("name", CASES)
def test_mindspore_computes_and_goes_on_with_what_pytorch_saved(name, judged):
    """There and back again, nothing has changed."""
    found = judged[name]
    assert np.abs(found["back"]["outputs"] - found["torch"]["outputs"]).max() <= OUTPUTS
    assert np.abs(found["back"]["losses"] - np.array(found["torch"]["losses"])).max() <= LOSSES
