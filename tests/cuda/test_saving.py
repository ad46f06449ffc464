"""Saves of what is on a GPU: the values are those of the save's place in the stream, and the host waits for nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from tests.clocks import FixedClock
from torch import nn

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint, save_checkpoint
from milepost.errors import SnapshotError
from milepost.moment import Moment

MODES = (False, "copied", "lazy")
BACKGROUND = ("copied", "lazy")


class Training:
    """A network with batch statistics and dropout on the GPU, its optimizer, and their manager."""

    def __init__(self, folder, mode, make_optimizer=torch.optim.Adam, **settings):
        torch.manual_seed(1)
        self.net = nn.Sequential(
            nn.Linear(512, 1024), nn.BatchNorm1d(1024), nn.Dropout(0.1), nn.Linear(1024, 512), nn.Linear(512, 512)
        ).cuda()
        self.optimizer = make_optimizer(self.net.parameters(), lr=0.01)
        self.batch = torch.randn(64, 512, device="cuda")
        config = CheckpointConfig(async_save=mode, keep_checkpoint_max=20, **settings)
        self.manager = CheckpointManager(folder, self.net, self.optimizer, config=config, clock=FixedClock())
        self.count = self.manager.start().global_step
        self.step()

    def step(self):
        self.optimizer.zero_grad()
        self.net(self.batch).square().mean().backward()
        self.optimizer.step()
        self.count += 1

    def save(self):
        return self.manager.save(Moment(1, self.count, self.count))

    def state(self):
        """Every tensor of network and optimizer as it is at this place of the stream, under its name in the file."""
        tensors = {name: value.clone() for name, value in self.net.state_dict().items()}
        names = [name for name, _ in self.net.named_parameters()]
        for place, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{names[place]}.{key}": value.clone() for key, value in values.items()}
        return tensors


def assert_holds(path, expected):
    saved = load_checkpoint(path)
    assert set(expected) <= set(saved)
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(saved[name]), value.cpu()), name


OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "fused": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
    "capturable": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, capturable=True),
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_file_holds_what_the_device_held_where_it_was_saved(tmp_path, mode, optimizer, stream, hold):
    """Neither what was not computed yet at the call, nor what the steps behind it make of it."""
    training = Training(tmp_path, mode, OPTIMIZERS[optimizer])
    expected = {}
    for _ in range(3):
        hold()
        training.step()
        values = training.state()
        expected[training.save()] = values
        training.step()
        training.step()
    training.manager.close()
    for path, values in expected.items():
        assert_holds(path, values)


def test_all_modes_write_the_same_bytes(tmp_path):
    """The file of a step does not tell how it was saved, but for what the save before it cost."""
    files = []
    for mode in MODES:
        training = Training(tmp_path / str(mode), mode)
        path = training.save()
        training.step()
        training.manager.close()
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("mode", BACKGROUND)
def test_a_save_in_the_background_does_not_wait_for_the_device(tmp_path, mode, hold):
    """Neither the save nor the step behind it synchronises; both return while the device is busy with earlier work."""
    training = Training(tmp_path, mode, OPTIMIZERS["fused"])
    training.save()  # takes the pinned memory
    training.step()
    training.manager.wait()
    torch.cuda.synchronize()
    hold()
    busy = torch.cuda.Event()
    busy.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.save()
        training.step()
        assert not busy.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    training.manager.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_save_takes_no_memory_of_the_device(tmp_path, mode):
    """Contiguous tensors are copied to the host from where they lie."""
    training = Training(tmp_path, mode)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    training.save()
    training.manager.wait()
    assert torch.cuda.max_memory_allocated() == before
    training.manager.close()


def test_pinned_memory_is_used_again(tmp_path):
    """The second save and all behind it pin nothing."""
    training = Training(tmp_path, "lazy", OPTIMIZERS["fused"])  # which has nothing on the host
    taken = []
    for _ in range(4):
        training.save()
        training.step()
        training.manager.wait()
        taken.append(training.manager._recorder.saver._buffers.nbytes)
    training.manager.close()
    assert taken[0] > 0
    assert len(set(taken)) == 1


def test_a_write_outside_of_a_step_tears_a_lazy_save(tmp_path):
    """A write that moves the version counter gives the save up, even if its copy was done before."""
    training = Training(tmp_path, "lazy")
    path = training.save()
    with torch.no_grad():
        training.net[0].weight.clamp_(-0.01, 0.01)
    training.manager._recorder.saver.wait()
    with pytest.warns(UserWarning, match=r"0\.weight"):
        training.manager.wait()
    assert not path.exists()
    training.manager.close()


def test_the_debug_mode_catches_a_write_past_the_counters(tmp_path):
    """`.data` of a tensor on the device is compared like any other."""
    training = Training(tmp_path, "lazy", check_snapshots=True)
    training.save()
    training.net[3].weight.data.mul_(1.5)
    with pytest.raises(SnapshotError, match=r"3\.weight"):
        training.step()


@pytest.mark.parametrize("mode", MODES)
def test_a_step_in_a_graph_does_not_reach_into_a_file(tmp_path, mode, hold):
    """A replayed graph calls no hook and moves no counter, and its optimizer says that it is capturable."""
    training = Training(tmp_path, mode, OPTIMIZERS["capturable"])
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            training.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    training.optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        training.net(training.batch).square().mean().backward()
        training.optimizer.step()
    for _ in range(4):
        graph.replay()
        training.count += 1
        hold()
        expected = training.state()
        path = training.save()
        graph.replay()
        graph.replay()
        training.manager.wait()
        assert_holds(path, expected)
    training.manager.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(300, 400, device="cuda").t(),
        lambda: torch.randn(64, 64, device="cuda")[::2, 1::3],
        lambda: torch.randn(7, 9, dtype=torch.complex64, device="cuda").conj(),
        lambda: torch.randn(1 << 20, device="cuda").bfloat16(),
        lambda: torch.randn(33, device="cuda").half()[1:],
        lambda: torch.randn(40, device="cuda").to(torch.float8_e4m3fn),
        lambda: torch.zeros(0, 3, device="cuda"),
        lambda: torch.tensor(3.5, device="cuda"),
        lambda: torch.arange(10, device="cuda") % 2 == 0,
        lambda: torch.randn(1, 5, device="cuda").expand(4, 5),
    ],
    ids=["transposed", "strided", "conjugate", "bfloat16", "offset", "float8", "empty", "scalar", "bool", "expanded"],
)
@pytest.mark.parametrize("mode", MODES)
def test_any_tensor_of_the_device_is_saved(tmp_path, make, mode):
    """Whatever its strides, dtype and bits, by hand and as a buffer beside a training."""
    tensor = make()
    by_hand = load_checkpoint(save_checkpoint({"x": tensor}, tmp_path / "by_hand.ckpt"))["x"]
    net = nn.Linear(2, 2).cuda()
    net.register_buffer("x", tensor)
    manager = CheckpointManager(tmp_path, net, config=CheckpointConfig(async_save=mode))
    manager.start()
    path = manager.save(Moment(1, 1, 1))
    manager.close()
    for saved in (by_hand, load_checkpoint(path)["x"]):
        assert saved.dtype == tensor.dtype
        assert saved.shape == tensor.shape
        assert torch.equal(saved.resolve_conj().view(torch.uint8) if saved.ndim else saved, bits(tensor))


def bits(tensor):
    plain = tensor.cpu().resolve_conj().contiguous()
    return plain.view(torch.uint8) if plain.ndim else plain


def test_saving_on_the_cpu_leaves_the_gpus_alone(tmp_path):
    """The random state of a device that nobody uses is not asked for, which would take memory of each."""
    script = (
        "import sys, torch, milepost\n"
        "net = torch.nn.Linear(2, 2)\n"
        "with milepost.CheckpointManager(sys.argv[1], net) as checkpoints:\n"
        "    checkpoints.resume()\n"
        "    checkpoints.save(milepost.moment.Moment(1, 1, 1))\n"
        "with milepost.CheckpointManager(sys.argv[1], net) as checkpoints:\n"
        "    assert checkpoints.resume().global_step == 1\n"
        "assert not torch.cuda.is_initialized()\n"
    ).replace("milepost\n", "milepost, milepost.moment\n", 1)
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=120)
