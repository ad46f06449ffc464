"""Files in MindSpore's dialect: MindSpore's names on disk, PyTorch's for Milepost, the same to the bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint, load_param_into_net, save_checkpoint
from milepost.engine.reader import Reader
from milepost.errors import DamagedCheckpointError, SettingError, UnsupportedStateError
from milepost.format.ckpt_plan import plan
from milepost.format.dialect import DIALECT, DIALECTS
from milepost.format.spec import Array, ArraySpec
from milepost.interop.convert import convert
from milepost.interop.mindspore.names import FAMILIES
from milepost.nn import Momentum
from milepost.storage.local import LocalStorage
from milepost.testing import assert_resumes_exactly


class Net(nn.Module):
    """Something of each kind that is called or shaped otherwise, and a tied weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm1d(4)
        self.ln = nn.LayerNorm(4)
        self.act = nn.PReLU()
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.bn(self.conv(self.embed(tokens).transpose(1, 2))).transpose(1, 2)
        return self.head(self.act(self.ln(x)))


OPTIMIZERS = {
    "Momentum": lambda p: Momentum(p, 0.1, 0.9),
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "SGD without momentum": lambda p: torch.optim.SGD(p, 0.1),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "Adam with amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 0.01),
}
ONCE = {
    "Momentum": {"global_step", "learning_rate", "momentum"},
    "SGD": {"global_step", "learning_rate", "momentum"},
    "SGD without momentum": {"global_step", "learning_rate", "momentum"},
    "Adam": {"global_step", "learning_rate", "beta1_power", "beta2_power"},
    "Adam with amsgrad": {"global_step", "learning_rate", "beta1_power", "beta2_power"},
    "AdamW": {"state_step"},
}
SLOTS = {
    "Momentum": {"moments"},
    "SGD": {"accum", "stat"},
    "SGD without momentum": {"accum", "stat"},
    "Adam": {"moment1", "moment2"},
    "Adam with amsgrad": {"moment1", "moment2", "vhat"},
    "AdamW": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
}
SHAPES = {
    "embed.embedding_table": (6, 4),
    "conv.weight": (4, 4, 1, 3),
    "conv.bias": (4,),
    "bn.gamma": (4,),
    "bn.beta": (4,),
    "ln.gamma": (4,),
    "ln.beta": (4,),
    "act.w": (1,),
}


def stored(path):
    """What the file holds, as it is written there."""
    with Reader(LocalStorage(path.parent), path.name) as reader:
        return {name: entry.spec.shape for name, entry in reader.index.entries.items()}


def train(net, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        tokens = torch.randint(6, (3, 5), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()


def trained(folder, build, dialect="mindspore", steps=3):
    torch.manual_seed(0)
    net = Net()
    optimizer = build(net.parameters())
    config = CheckpointConfig(dialect=dialect)
    with CheckpointManager(folder, net, optimizer, config=config, averaged=copy.deepcopy(net)) as checkpoints:
        checkpoints.start()
        train(net, optimizer, steps)
        for _ in range(steps):
            checkpoints.progress.count_step()
        path = checkpoints.save()
    return net, optimizer, path


def test_the_dialects_are_those_of_the_table():
    """The settings' names and the table's are one vocabulary."""
    assert {family.dialect for family in FAMILIES} == set(DIALECTS)


def test_a_network_is_written_under_mindspores_names_and_shapes(tmp_path):
    """By what its modules are; the tied weight once."""
    net = Net()
    path = save_checkpoint(net, tmp_path / "net.ckpt", dialect="mindspore")
    statistics = {"bn.moving_mean": (4,), "bn.moving_variance": (4,), "bn.num_batches_tracked": ()}
    assert stored(path) == SHAPES | statistics
    parameters = load_checkpoint(path)
    assert {name: value.shape for name, value in parameters.items()} == {
        name: value.shape for name, value in net.state_dict().items()
    }
    twin = Net()
    report = load_checkpoint(path, net=twin, strict_load=True).report
    assert (report.renamed, report.kept) == ((), ())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_is_written_under_mindspores_names(name, tmp_path):
    """Each slot of each parameter, in the parameter's shape, and what is there once; and nothing is missing."""
    _, _, path = trained(tmp_path, OPTIMIZERS[name])
    found = stored(path)
    assert found.keys() >= ONCE[name]
    for slot in SLOTS[name]:
        assert {f"{slot}.{other}": shape for other, shape in SHAPES.items()}.items() <= found.items()


@pytest.mark.parametrize("mode", ["copied", "lazy"])
def test_it_is_written_beside_the_training_too(mode, tmp_path):
    """The same entries, taken when the training was there."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    train(net, optimizer, 2)
    before = copy.deepcopy(net.state_dict())
    config = CheckpointConfig(dialect="mindspore", async_save=mode)
    with CheckpointManager(tmp_path, net, optimizer, config=config) as checkpoints:
        checkpoints.start()
        path = checkpoints.save()
        train(net, optimizer, 2)
        checkpoints.wait()
        assert stored(path).keys() >= SHAPES.keys()
        assert all(torch.equal(value, before[name]) for name, value in load_checkpoint(path).items() if name in before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_milepost_reads_it_back_as_if_nothing_were_different(name, tmp_path):
    """Names, shapes, kinds, metadata and bytes are those of the same save without a dialect."""
    _, _, path = trained(tmp_path / "a", OPTIMIZERS[name])
    _, _, plain = trained(tmp_path / "b", OPTIMIZERS[name], dialect=None)
    ours, theirs = load_checkpoint(path), load_checkpoint(plain)
    ours.verify()
    assert list(ours) == list(theirs)
    for key in ours:
        assert ours.kind(key) == theirs.kind(key)
        assert torch.equal(ours[key], theirs[key]), key
    for key in ours.metadata.keys() - {"time", "state"}:
        assert ours.metadata[key] == theirs.metadata[key]
    assert ours.metadata.keys() == theirs.metadata.keys()
    assert ours.metadata["state"]["optimizer"] == theirs.metadata["state"]["optimizer"]
    assert ours.part("averaged").keys() == theirs.part("averaged").keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_resumes_from_it_to_the_bit(name, tmp_path):
    """The optimizer's state too, whatever MindSpore calls it."""
    net, optimizer, path = trained(tmp_path, OPTIMIZERS[name])
    torch.manual_seed(5)
    twin = Net()
    other = OPTIMIZERS[name](twin.parameters())
    with CheckpointManager(tmp_path, twin, other, averaged=Net()) as checkpoints:
        checkpoints.resume("must")
    train(net, optimizer, 3)
    train(twin, other, 3)
    for key, value in net.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    assert path.exists()


def test_a_training_in_the_dialect_resumes_exactly():
    """The whole loop, random state and all."""

    def run(folder):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        optimizer = torch.optim.AdamW(net.parameters(), 0.01)
        loader = torch.utils.data.DataLoader(torch.randn(12, 2), batch_size=4, shuffle=True)
        config = CheckpointConfig(save_checkpoint_steps=1, dialect="mindspore")
        with CheckpointManager(folder, net, optimizer, config=config) as checkpoints:
            progress = checkpoints.resume()
            for _ in progress.epochs(2):
                for batch in progress.steps(loader):
                    optimizer.zero_grad()
                    net(batch).square().mean().backward()
                    optimizer.step()
                    checkpoints.step()

    assert_resumes_exactly(run)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_saved_again_of_it_is_in_no_dialect(dialect, tmp_path):
    """Parameters have PyTorch's names."""
    path = save_checkpoint(Net(), tmp_path / "net.ckpt", dialect=dialect)
    again = save_checkpoint(load_checkpoint(path), tmp_path / "again.ckpt")
    assert "bn.weight" in stored(again)
    assert load_checkpoint(again).keys() == load_checkpoint(path).keys()


def test_other_containers_keep_it(tmp_path):
    """Safetensors, and files converted to others and back."""
    net = Net()
    saved = save_checkpoint(net, tmp_path / "net", format="safetensors", dialect="mindspore")
    files = [saved, convert(saved, tmp_path / "a.pt"), convert(tmp_path / "a.pt", tmp_path / "b.ckpt")]
    for path in files:
        twin = Net()
        load_checkpoint(path, net=twin, strict_load=True)
        assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())
    assert stored(files[-1]) == stored(saved)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda net: torch.optim.RMSprop(net.parameters()), "a RMSprop, for which MindSpore has no equal"),
        (
            lambda net: torch.optim.SGD(
                [{"params": [net.act.weight], "momentum": 0.5}, {"params": net.conv.parameters()}], 0.1, momentum=0.9
            ),
            r"optimizer, momentum: found 0\.5 and 0\.9",
        ),
    ],
)
def test_an_optimizer_that_mindspore_has_not_is_refused(build, message, tmp_path):
    """Before anything is written."""
    net = Net()
    checkpoints = CheckpointManager(tmp_path, net, build(net), config=CheckpointConfig(dialect="mindspore"))
    checkpoints.start()
    with pytest.raises(UnsupportedStateError, match=message):
        checkpoints.save()
    checkpoints.close()
    assert not list(tmp_path.glob("*.ckpt"))


def test_parameters_that_count_their_own_steps_are_refused(tmp_path):
    """MindSpore has one count for all."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    train(net, optimizer, 2)
    optimizer.state[net.act.weight]["step"] += 1
    checkpoints = CheckpointManager(tmp_path, net, optimizer, config=CheckpointConfig(dialect="mindspore"))
    checkpoints.start()
    with pytest.raises(UnsupportedStateError, match="parameters with 2 and 3 steps"):
        checkpoints.save()
    checkpoints.close()


@pytest.mark.parametrize(
    ("act", "kind", "message"),
    [
        (lambda path: CheckpointConfig(dialect="tensorflow"), SettingError, "'mindspore-r0.6'"),
        (lambda path: save_checkpoint(Net(), path, dialect="x"), SettingError, "dialect: found 'x'"),
        (lambda path: save_checkpoint({"w": torch.ones(1)}, path, dialect="mindspore"), SettingError, "a dict"),
        (
            lambda path: save_checkpoint(nn.Embedding(2, 2, dtype=torch.complex64), path, dialect="mindspore"),
            UnsupportedStateError,
            "weight: found complex64",
        ),
    ],
)
def test_what_cannot_be_said_in_it_is_refused(act, kind, message, tmp_path):
    """Where it is asked for."""
    with pytest.raises(kind, match=message):
        act(tmp_path / "net.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "entries",
    [
        None,
        3,
        {"nothing": ["w", [2]]},
        {"a": ["w", [3]]},
        {"a": ["b", [2]]},
        {"a": ["w", [-1, -2]]},
        {"a": ["", [2]]},
        {"a": ["w", [True, 2]]},
        {"a": [1, [2]]},
        {"a": ["w"]},
        {"a": "w"},
        {"a": ["tied", [2]]},
        {"a": None},
    ],
    ids=json.dumps,
)
def test_a_dialect_that_does_not_fit_the_file_is_damage(entries, tmp_path):
    """Whatever the metadata says; an alias needs its entry."""
    arrays = [Array(ArraySpec(name, "float32", (2,)), "parameter", lambda: memoryview(bytes(8))) for name in "ab"]
    planned = plan(arrays, {DIALECT: {"name": "mindspore", "entries": entries}}, {"tied": "a"})
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"".join(planned.chunks()))
    with pytest.raises(DamagedCheckpointError, match="a dialect that cannot be read"):
        load_checkpoint(path)


def test_an_optimizer_alone_takes_its_state_from_it(tmp_path):
    """By PyTorch's names, as from any checkpoint of Milepost's."""
    _, _, path = trained(tmp_path, OPTIMIZERS["Adam"])
    other = torch.optim.Adam(Net().named_parameters(), 0.5)
    report = load_param_into_net(other, load_checkpoint(path), strict_load=True)
    assert report.renamed == ()
    assert other.param_groups[0]["lr"] == 0.01
