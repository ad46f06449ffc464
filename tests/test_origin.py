"""Which checkpoint a module holds: told only while it is true, to the bit."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

import milepost
from milepost import load_checkpoint, load_param_into_net, origin, save_checkpoint


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 1))


@pytest.fixture
def trained(tmp_path):
    """A network after two steps of an epoch, saved after each."""
    net = Net()
    config = milepost.CheckpointConfig(save_checkpoint_steps=1, keep_checkpoint_max=5)
    model = milepost.Model(net, nn.MSELoss(), torch.optim.SGD(net.parameters(), 0.1))
    batches = [(torch.randn(3, 1, 4, 4), torch.randn(3, 1)) for _ in range(2)]
    model.train(1, batches, callbacks=[milepost.ModelCheckpoint("net", tmp_path, config)])
    return net


def test_a_trained_module_holds_its_last_checkpoint(trained):
    """With its epoch and step."""
    assert origin.origin(trained) == {"checkpoint": "net-1_2.ckpt", "epoch": "1", "step": "2"}
    assert origin.origin(copy.deepcopy(trained)) == {}


@pytest.mark.parametrize("load", [load_param_into_net, lambda net, parameters: net], ids=["by hand", "at once"])
def test_a_loaded_module_holds_what_was_loaded(trained, tmp_path, load):
    """Whatever it held before; the file may be gone afterwards."""
    net = Net()
    path = tmp_path / "net-1_1.ckpt"
    if load is load_param_into_net:
        load_param_into_net(net, load_checkpoint(path))
    else:
        load_checkpoint(path, net=net)
    path.unlink()
    assert origin.origin(net) == {"checkpoint": "net-1_1.ckpt", "epoch": "1", "step": "1"}


def test_a_restored_training_holds_what_was_restored(trained, tmp_path):
    """The manager's own loads, too."""
    net = Net()
    manager = milepost.CheckpointManager(tmp_path, net, torch.optim.SGD(net.parameters(), 0.1), prefix="net")
    manager.restore(tmp_path / "net-1_1.ckpt")
    assert origin.origin(net)["step"] == "1"


CHANGES = {
    "an optimizer's step": lambda net: torch.optim.SGD(net.parameters(), 0.1).step(),
    "a write that torch does not count": lambda net: net[3].weight.data.add_(1),
    "one bit through NumPy": lambda net: net[3].bias.detach().numpy().view("u1").__ixor__(1),
    "a statistic": lambda net: net.train()(torch.randn(3, 1, 4, 4)),
    "another layer": lambda net: net.append(nn.Linear(1, 1)),
    "torch's own load": lambda net: net.load_state_dict(Net().state_dict()),
    "another element type": lambda net: net.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_that_changed_holds_no_checkpoint(trained, change):
    """However it was changed."""
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    CHANGES[change](trained)
    assert origin.origin(trained) == {}


def test_what_was_loaded_of_other_values_is_not_that_checkpoint(trained, tmp_path):
    """Values that were set, and a load of a part."""
    parameters = load_checkpoint(tmp_path / "net-1_1.ckpt")
    parameters["3.bias"] = torch.ones(1)
    load_param_into_net(net := Net(), parameters)
    assert origin.origin(net) == {}
    with pytest.warns(UserWarning, match="not loaded"):
        load_param_into_net(net := Net(), load_checkpoint(tmp_path / "net-1_1.ckpt"), filter_prefix="3")
    assert origin.origin(net) == {}


def test_a_module_saved_by_hand_holds_that_file_while_it_is_there(tmp_path):
    """It has neither epoch nor step; replaced by another's, it is not the module's any more."""
    net = nn.Linear(2, 1)
    path = save_checkpoint(net, tmp_path / "net")
    assert origin.origin(net) == {"checkpoint": "net.ckpt"}
    save_checkpoint(nn.Linear(2, 1), path)
    assert origin.origin(net) == {}
    path.unlink()
    assert origin.origin(net) == {}


def test_a_module_that_is_gone_is_forgotten(tmp_path):
    """Nothing here keeps it."""
    net = nn.Linear(2, 1)
    save_checkpoint(net, tmp_path / "net")
    module = weakref.ref(net)
    assert net in origin._LAST
    del net
    gc.collect()
    assert module() is None
