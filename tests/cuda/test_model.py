"""The tutorial's `Model` on a GPU: it trains, saves, goes on and exports there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, Model, ModelCheckpoint, export, load_checkpoint, load_model
from milepost.nn import CrossEntropyLoss, Momentum

MODES = (False, "copied", "lazy")


def make_network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def make_batches():
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(3, (96,), generator=generator)
    points = torch.randn(96, 4, generator=generator) + 3.0 * torch.eye(3, 4)[labels]
    return list(zip(points.split(8), labels.split(8), strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_a_model_trains_on_the_device_and_its_checkpoints_fit(tmp_path, mode):
    """The device is chosen by itself; a file holds what the network has, and its graph lies beside it."""
    net = make_network()
    model = Model(net, CrossEntropyLoss(), Momentum(net.parameters(), 0.1, 0.9))
    config = CheckpointConfig(save_checkpoint_steps=6, async_save=mode)
    model.train(2, make_batches(), callbacks=ModelCheckpoint(prefix="net", directory=str(tmp_path), config=config))
    assert {value.device.type for value in net.state_dict().values()} == {"cuda"}
    assert model.eval(make_batches())["accuracy"] > 0.8
    twin = make_network()
    load_checkpoint(tmp_path / "net-2_12.ckpt", net=twin)
    for (name, value), other in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(value.cpu(), other), name
    assert (tmp_path / "net-graph.meta").exists()


def test_the_state_that_an_optimizer_has_moves_along():
    """Network, batches and optimizer go to the device by themselves, in the middle of a training too."""
    net = make_network()
    optimizer = Momentum(net.parameters(), 0.1, 0.9)
    Model(net, CrossEntropyLoss(), optimizer, device="cpu").train(1, make_batches())
    model = Model(net, CrossEntropyLoss(), optimizer)
    model.train(3, make_batches())
    assert model.device.type == "cuda"
    assert {parameter.device for parameter in net.parameters()} == {model.device}
    assert {state["momentum_buffer"].device for state in optimizer.state.values()} == {model.device}
    assert model.eval(make_batches())["accuracy"] > 0.9


def test_a_model_that_was_cut_off_goes_on_exactly(tmp_path):
    """Two epochs in one go, and one and one, give the same network."""
    ends = []
    for folder, epochs in (("whole", [2]), ("halves", [1, 2])):
        for count in epochs:
            net = make_network()
            torch.cuda.manual_seed(11)
            model = Model(net, CrossEntropyLoss(), Momentum(net.parameters(), 0.1, 0.9))
            saver = ModelCheckpoint(prefix="net", directory=str(tmp_path / folder), config=CheckpointConfig())
            model.train(count, make_batches(), callbacks=saver, resume="auto")
        ends.append({name: value.cpu() for name, value in net.state_dict().items()})
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.mark.parametrize("file_format", ["ONNX", "GEIR", "MINDIR"])
def test_a_network_on_the_device_is_exported_from_there(tmp_path, file_format):
    """And it stays there, as it was."""
    net = make_network().cuda().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export(net, torch.randn(2, 4, device="cuda"), file_name=str(tmp_path / "net"), file_format=file_format)
    assert any(tmp_path.iterdir())
    for name, value in net.state_dict().items():
        assert value.is_cuda
        assert torch.equal(value, before[name])


def test_a_graph_that_was_saved_beside_a_training_on_the_device_computes_the_same(tmp_path):
    """`load_model` puts graph and checkpoint together, on the CPU."""
    net = make_network()
    model = Model(net, CrossEntropyLoss(), Momentum(net.parameters(), 0.1, 0.9))
    saver = ModelCheckpoint(prefix="net", directory=str(tmp_path), config=CheckpointConfig(save_checkpoint_steps=12))
    model.train(1, make_batches(), callbacks=saver)
    loaded = load_model(tmp_path / "net-graph.meta", tmp_path / "net-1_12.ckpt")
    points = torch.randn(2, 4)
    with torch.no_grad():
        expected = net.eval()(points.cuda()).cpu()
    torch.testing.assert_close(torch.as_tensor(loaded(points)), expected, rtol=1e-4, atol=1e-4)
