"""Loads onto a GPU, and resumes there: the same bits, in their turn, on the device that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint, load_param_into_net, save_checkpoint
from milepost.testing import assert_resumes_exactly

MODES = (False, "copied", "lazy")


def make_network(seed=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(256, 512), nn.BatchNorm1d(512), nn.Dropout(0.2), nn.Linear(512, 256))


def assert_same(net, other):
    for (name, value), twin in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value.cpu(), twin.cpu()), name


@pytest.fixture
def saved(tmp_path):
    net = make_network().cuda()
    net(torch.randn(64, 256, device="cuda"))
    return net, save_checkpoint(net, tmp_path / "net.ckpt")


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("verify", [False, True])
def test_a_network_on_the_device_is_loaded_where_it_is(saved, mmap, verify):
    """Its tensors keep their memory, and get the bits that were saved."""
    net, path = saved
    fresh = make_network(seed=6).cuda()
    places = [value.data_ptr() for value in fresh.state_dict().values()]
    load_checkpoint(path, net=fresh, mmap=mmap, verify=verify)
    assert_same(fresh, net)
    assert [value.data_ptr() for value in fresh.state_dict().values()] == places


def test_a_network_without_memory_gets_it_on_the_device(saved):
    """`map_location` says where."""
    net, path = saved
    with torch.device("meta"):
        bare = make_network()
    load_checkpoint(path, net=bare, map_location="cuda")
    assert {value.device.type for value in bare.state_dict().values()} == {"cuda"}
    assert_same(bare, net)


def test_the_mapping_is_on_the_device_that_was_asked_for(saved):
    """On the CPU by default, whatever it was saved from."""
    net, path = saved
    assert {value.device.type for value in load_checkpoint(path).values()} == {"cpu"}
    mapping = load_checkpoint(path, map_location="cuda:0")
    assert {value.device for value in mapping.values()} == {torch.device("cuda:0")}
    fresh = make_network()
    load_param_into_net(fresh, mapping)
    assert_same(fresh, net)


def test_a_load_comes_after_what_the_stream_was_given_before(saved, stream, hold):
    """A write to the network that the device has not come to yet does not come out on top."""
    net, path = saved
    torch.cuda.synchronize()
    fresh = make_network().cuda()
    hold()
    with torch.no_grad():
        for value in fresh.parameters():
            value.fill_(7.0)
    load_checkpoint(path, net=fresh)
    torch.cuda.synchronize()
    assert_same(fresh, net)


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters),
    "fused": lambda parameters: torch.optim.AdamW(parameters, fused=True),
    "capturable": lambda parameters: torch.optim.Adam(parameters, capturable=True),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_training_on_the_device_resumes_to_the_bit(mode, optimizer):
    """Dropout draws from the device's own random state; the scaler's scale is on the device."""

    def run(folder):
        net = make_network().cuda()
        steps = OPTIMIZERS[optimizer](net.named_parameters())
        scaler = torch.amp.GradScaler("cuda", growth_interval=2)
        data = torch.utils.data.DataLoader(torch.randn(96, 256), batch_size=16, shuffle=True)
        config = CheckpointConfig(async_save=mode, keep_checkpoint_max=3)
        with CheckpointManager(folder, net, steps, config=config, scaler=scaler) as checkpoints:
            progress = checkpoints.resume()
            for _ in progress.epochs(2):
                for batch in progress.steps(data):
                    steps.zero_grad()
                    with torch.autocast("cuda", dtype=torch.float16):
                        loss = net(batch.cuda()).square().mean()
                    scaler.scale(loss).backward()
                    scaler.step(steps)
                    scaler.update()
                    checkpoints.step(loss=loss)

    torch.use_deterministic_algorithms(False)
    assert_resumes_exactly(run, stop_after=[3, 8])
