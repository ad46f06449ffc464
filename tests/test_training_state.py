"""Everything of a training under one roof: several networks and optimizers, and what was added or taken away since."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from milepost import CheckpointManager, load_checkpoint
from milepost.errors import LoadError, SettingError, SettingTypeError, UnsupportedStateError
from milepost.testing import assert_resumes_exactly

BATCHES = [torch.full((4, 2), 0.1 * number) for number in range(3)]


def adversaries(folder):
    """A generator and a discriminator, each with its optimizer."""
    torch.manual_seed(1)
    nets = {
        "generator": nn.Linear(2, 3),
        "discriminator": nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)),
    }
    optimizers = {f"{name}_optimizer": torch.optim.Adam(net.parameters(), lr=0.01) for name, net in nets.items()}
    with CheckpointManager(folder, **nets, **optimizers) as checkpoints:
        progress = checkpoints.resume()
        for _ in progress.epochs(2):
            for batch in progress.steps(BATCHES):
                for sign, optimizer in zip((1, -1), optimizers.values(), strict=True):
                    optimizer.zero_grad()
                    (sign * nets["discriminator"](nets["generator"](batch)).mean()).backward()
                    optimizer.step()
                checkpoints.step()
    return nets


def test_several_networks_and_optimizers_go_on_to_the_bit():
    """Under the names they were given."""
    assert_resumes_exactly(adversaries, stop_after=[2, 3, 4])


def test_one_of_several_networks_can_be_loaded_alone(tmp_path):
    """For inference: under its own names."""
    nets = adversaries(tmp_path)
    twin = nn.Linear(2, 3)
    load_checkpoint(tmp_path / "CKP-2_3.ckpt", net=twin, part="generator")
    assert torch.equal(twin.weight, nets["generator"].weight)


def save_one(folder, **objects):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    given = {name: build(optimizer) for name, build in objects.items()}
    with CheckpointManager(folder, net, optimizer, **given) as checkpoints:
        checkpoints.start()
        checkpoints.step()
    return net, optimizer


def step_lr(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 3)


@pytest.mark.parametrize(("before", "after"), [({}, {"scheduler": step_lr}), ({"scheduler": step_lr}, {})])
def test_an_object_that_only_one_side_has_is_refused_unless_it_may_be(tmp_path, before, after):
    """A resume would else not be exact, in silence."""
    save_one(tmp_path, **before)
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    given = {name: build(optimizer) for name, build in after.items()}
    checkpoints = CheckpointManager(tmp_path, net, optimizer, **given)
    with pytest.raises(LoadError, match="scheduler"):
        checkpoints.resume()
    assert checkpoints.resume(strict=False).global_step == 1
    checkpoints.close()


def test_reordered_and_added_parameters_keep_their_state_and_are_reported(tmp_path):
    """The optimizer's state goes by name, not by place."""
    net, optimizer = save_one(tmp_path)
    grown = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 1))
    again = torch.optim.SGD(list(reversed(list(grown.parameters()))), lr=0.1, momentum=0.9)
    checkpoints = CheckpointManager(tmp_path, grown, again)
    with pytest.raises(LoadError, match=r"2\.weight"):
        checkpoints.resume()
    checkpoints.resume(strict=False)
    network_report, optimizer_report = checkpoints.reports
    assert network_report.missing == ("2.weight", "2.bias")
    assert set(optimizer_report.missing) >= {"2.weight", "2.bias"}
    for name in ("0.weight", "1.bias"):
        old, new = (dict(each.named_parameters())[name] for each in (net, grown))
        assert torch.equal(optimizer.state[old]["momentum_buffer"], again.state[new]["momentum_buffer"])
    checkpoints.close()


def test_what_is_no_part_of_a_training_is_refused_at_once(tmp_path):
    """Not at the first save."""
    with pytest.raises(SettingTypeError, match="^epoch: found a int"):
        CheckpointManager(tmp_path, epoch=3)
    with pytest.raises(SettingTypeError, match="^optimizer: found a Linear"):
        CheckpointManager(tmp_path, nn.Linear(1, 1), nn.Linear(1, 1))
    with pytest.raises(SettingError, match="^random"):
        CheckpointManager(tmp_path, random=nn.Linear(1, 1))


def test_a_state_that_cannot_be_stored_is_refused_at_the_first_save_by_its_path(tmp_path):
    """Never at the resume, and never dropped."""

    class Odd:
        def state_dict(self):
            return {"inner": [1, {"thing": object()}]}

        def load_state_dict(self, state):
            raise AssertionError

    with pytest.raises(UnsupportedStateError, match=r"odd\.inner\.1\.thing"):  # noqa: SIM117
        with CheckpointManager(tmp_path, odd=Odd()) as checkpoints:
            checkpoints.start()
            checkpoints.save()
    assert not list(tmp_path.glob("*.ckpt"))


KILLED = """
import os, random, signal, sys, numpy, torch
from pathlib import Path
from torch import nn
from milepost import CheckpointConfig, CheckpointManager
folder, kill_after = sys.argv[1], int(sys.argv[2])
random.seed(1), numpy.random.seed(1), torch.manual_seed(1)
net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Linear(4, 1))
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12)
data = torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=2, shuffle=True)
with CheckpointManager(folder, net, optimizer, scheduler=scheduler, config=CheckpointConfig(2)) as checkpoints:
    progress = checkpoints.resume()
    print("from", progress.global_step)
    for _ in progress.epochs(3):
        for batch in progress.steps(data):
            optimizer.zero_grad()
            net(batch).square().mean().backward()
            optimizer.step()
            scheduler.step()
            checkpoints.step()
            if progress.global_step == kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.report(norm=net[0].weight.norm())
"""


@pytest.mark.slow
def test_a_plain_loop_that_was_killed_goes_on_to_the_bit(tmp_path):
    """SIGKILL in the middle of the second epoch, and a new process: the last file is the straight run's."""

    def run(folder, kill_after=0):
        command = [sys.executable, "-c", KILLED, str(tmp_path / folder), str(kill_after)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    assert run("straight").returncode == 0
    assert run("killed", 7).returncode == -signal.SIGKILL
    again = run("killed")
    assert (again.returncode, again.stdout.strip()) == (0, "from 6")
    straight, resumed = (load_checkpoint(Path(tmp_path, name, "CKP-3_4.ckpt")) for name in ("straight", "killed"))
    assert list(straight) == list(resumed)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert straight.metadata["metrics"] == resumed.metadata["metrics"]
    for part in ("random", "objects"):
        assert str(straight.state(part)) == str(resumed.state(part))
