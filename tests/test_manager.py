"""A training's checkpoints: when, under which names, what stays, and where it goes on."""

from __future__ import annotations

import gc
import re
import signal

import pytest
import torch
from torch import nn

from milepost.checkpoint.loading import load_checkpoint
from milepost.checkpoint.saving import save_checkpoint
from milepost.config import CheckpointConfig
from milepost.errors import CheckpointNotFoundError, LoadError, SaveError, SettingError, SettingTypeError
from milepost.manager import CheckpointManager
from milepost.moment import Moment
from milepost.storage.local import LocalStorage

START = 1_790_000_040.0  # the beginning of a minute


class FakeClock:
    """A clock that goes where the test puts it."""

    def __init__(self):
        self.seconds = 0.0

    def now_seconds(self):
        return self.seconds

    def unix_seconds(self):
        return START + self.seconds


@pytest.fixture
def clock():
    return FakeClock()


def network() -> nn.Module:
    return nn.Linear(2, 1)


def manager_of(folder, prefix="net", net=None, clock=None, optimizer=None, **settings):
    net = net or network()
    optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return CheckpointManager(folder, net, optimizer, prefix=prefix, config=CheckpointConfig(**settings), clock=clock)


def train(manager, epochs=2, steps=5, clock=None, step_seconds=0.0, first_epoch=1):
    """The calls that a training loop makes."""
    for epoch in range(first_epoch, first_epoch + epochs):
        for step in range(1, steps + 1):
            if clock is not None:
                clock.seconds += step_seconds
            manager.step(Moment(epoch, step, (epoch - 1) * steps + step, steps))
    manager.finish()
    manager.close()


def left(folder) -> list[str]:
    """The checkpoints of a folder in order of their numbers, shortened to what follows the prefix."""
    names = (path.name.removesuffix(".ckpt") for path in folder.glob("*.ckpt"))
    return sorted(names, key=lambda name: (name.split("-")[0], [int(n) for n in re.findall(r"\d+", name)]))


@pytest.mark.parametrize(
    ("settings", "step_seconds", "expected"),
    [
        ({}, 0, "2_1 2_2 2_3 2_4 2_5"),
        ({"save_checkpoint_steps": 3, "keep_checkpoint_max": 10}, 0, "1_3 2_1 2_4 2_5"),
        ({"save_checkpoint_steps": 7}, 0, "2_2 2_5"),
        ({"save_checkpoint_steps": 100}, 0, "2_5"),
        ({"save_checkpoint_steps": 5}, 0, "1_5 2_5"),
        ({"save_checkpoint_seconds": 30}, 10, "1_3 2_1 2_4 2_5"),
        ({"save_checkpoint_steps": None, "save_checkpoint_seconds": 30}, 10, "1_3 2_1 2_4 2_5"),
        ({"save_checkpoint_steps": None}, 0, "2_5"),
        ({"save_checkpoint_steps": 0, "save_checkpoint_seconds": 0}, 0, "2_5"),
        ({"keep_checkpoint_max": 2}, 0, "2_4 2_5"),
        ({"keep_checkpoint_max": 1}, 0, "2_5"),
        ({"keep_checkpoint_max": None}, 0, "1_1 1_2 1_3 1_4 1_5 2_1 2_2 2_3 2_4 2_5"),
        ({"keep_checkpoint_per_n_minutes": 1}, 20, "1_2 1_5 2_3 2_5"),
        ({"keep_checkpoint_max": 0, "keep_checkpoint_per_n_minutes": 2}, 20, "1_5 2_5"),
    ],
    ids=str,
)
def test_settings_leave_these_files(tmp_path, clock, settings, step_seconds, expected):
    """Two epochs of five steps; the last step is always saved."""
    manager = manager_of(tmp_path, clock=clock, **settings)
    manager.start()
    train(manager, clock=clock, step_seconds=step_seconds)
    assert left(tmp_path) == [f"net-{name}" for name in expected.split()]


def test_the_last_step_is_saved_exactly_once(tmp_path, monkeypatch):
    """A save that was due at the last step is not repeated at the end."""
    saved = []
    create = LocalStorage.create
    monkeypatch.setattr(
        LocalStorage,
        "create",
        lambda self, name, *more, **settings: (saved.append(name), create(self, name, *more, **settings))[1],
    )
    manager = manager_of(tmp_path, save_checkpoint_steps=5)
    manager.start()
    train(manager)
    assert saved == ["net-1_5.ckpt", "net-2_5.ckpt"]


def test_a_second_save_of_one_step_returns_the_first(tmp_path):
    """Two checkpoints of one step are never written."""
    manager = manager_of(tmp_path)
    manager.start()
    moment = Moment(1, 1, 1)
    first = manager.save(moment)
    before = first.stat()
    assert manager.save(moment) == first
    assert first.stat().st_ino == before.st_ino


def test_runs_of_one_prefix_count_up_and_leave_each_other_alone(tmp_path):
    """The third run is called _3, and at most so many files are kept of each run."""
    for _ in range(3):
        manager = manager_of(tmp_path, keep_checkpoint_max=2)
        manager.start()
        train(manager, epochs=1, steps=4)
    assert left(tmp_path) == ["net-1_3", "net-1_4", "net_2-1_3", "net_2-1_4", "net_3-1_3", "net_3-1_4"]


@pytest.mark.parametrize(("mine", "other"), [("resnet50", "resnet50v2"), ("a", "a-b"), ("a", "a_2"), ("a_2", "a")])
def test_prefixes_that_begin_alike_never_touch_each_other(tmp_path, mine, other):
    """Neither is counted, renamed or removed by the other, whoever comes first."""
    for prefix in (other, mine, other, mine):
        manager = manager_of(tmp_path, prefix=prefix, keep_checkpoint_max=1)
        manager.start()
        train(manager, epochs=1, steps=3)
    owners = {}
    for path in tmp_path.glob("*.ckpt"):
        run = load_checkpoint(path).metadata["run"]
        owners.setdefault(run["prefix"], []).append(path.name)
    assert {prefix: len(names) for prefix, names in owners.items()} == {mine: 2, other: 2}


def test_files_of_others_survive_retention(tmp_path):
    """Only what this run wrote can expire."""
    others = ["net.ckpt", "net-best.ckpt", "net-1_1_breakpoint.ckpt", "net2-1_1.ckpt", "net-1_1.txt", "net-x-1_1.ckpt"]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    manager = manager_of(tmp_path, keep_checkpoint_max=1)
    manager.start()
    train(manager)
    assert all((tmp_path / name).read_bytes() == b"mine" for name in others)


def test_a_file_holds_epoch_step_metrics_and_kinds(tmp_path):
    """What the tutorial calls network and optimizer parameters can be told apart."""
    net = nn.BatchNorm1d(2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    manager = manager_of(tmp_path, net=net, optimizer=optimizer)
    manager.start()
    net(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    path = manager.save(Moment(3, 7, 71, 32, {"loss": torch.tensor(0.5), "rate": float("nan")}))
    parameters = load_checkpoint(path)
    facts = {key: parameters.metadata[key] for key in ("epoch", "step", "global_step", "metrics", "run")}
    assert facts == {
        "epoch": 3,
        "step": 7,
        "global_step": 71,
        "metrics": {"loss": 0.5, "rate": "nan"},
        "run": {"prefix": "net", "ordinal": 1},
    }
    assert {name: parameters.kind(name) for name in parameters} == {
        "weight": "parameter",
        "bias": "parameter",
        "running_mean": "buffer",
        "running_var": "buffer",
        "num_batches_tracked": "buffer",
        "optimizer.weight.momentum_buffer": "optimizer",
        "optimizer.bias.momentum_buffer": "optimizer",
    }


def test_a_resumed_run_goes_on_under_its_own_names_and_keeps_its_count(tmp_path):
    """It is not a new run; files from before the break count."""
    manager = manager_of(tmp_path, keep_checkpoint_max=3)
    manager.start()
    train(manager, epochs=1)
    manager = manager_of(tmp_path, keep_checkpoint_max=3)
    resumed = manager.resume("auto")
    assert (resumed.epoch, resumed.step, resumed.global_step) == (2, 0, 5)
    train(manager, epochs=1, first_epoch=2)
    assert left(tmp_path) == ["net-2_3", "net-2_4", "net-2_5"]


def test_resuming_restores_network_and_optimizer(tmp_path):
    """Bit for bit."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    manager = manager_of(tmp_path, net=net, optimizer=optimizer)
    manager.start()
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    train(manager)
    twin = network()
    other = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    assert manager_of(tmp_path, net=twin, optimizer=other).resume("must").global_step == 10
    assert torch.equal(twin.weight, net.weight)
    buffers = [each.state_dict()["state"][0]["momentum_buffer"] for each in (optimizer, other)]
    assert torch.equal(*buffers)


def test_resume_passes_over_damaged_checkpoints_says_so_and_keeps_them(tmp_path):
    """The newest that is whole, byte for byte."""
    manager = manager_of(tmp_path)
    manager.start()
    train(manager, epochs=1, steps=4)
    (tmp_path / "net-1_4.ckpt").write_bytes((tmp_path / "net-1_4.ckpt").read_bytes()[:-100])
    content = bytearray((tmp_path / "net-1_3.ckpt").read_bytes())
    weight = load_checkpoint(tmp_path / "net-1_3.ckpt")["weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    (tmp_path / "net-1_3.ckpt").write_bytes(content)
    with pytest.warns(UserWarning, match="passed over") as warned:
        resumed = manager_of(tmp_path).resume("auto")
    assert resumed.where.endswith("net-1_2.ckpt")
    told = "\n".join(str(warning.message) for warning in warned)
    assert "net-1_4.ckpt" in told
    assert "net-1_3.ckpt" in told
    assert left(tmp_path) == ["net-1_1", "net-1_2", "net-1_3", "net-1_4"]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_after_passing_over_damage_the_training_is_a_new_run_so_that_nothing_is_overwritten(tmp_path, damage):
    """The damaged file would otherwise be replaced when its step comes again."""
    manager = manager_of(tmp_path)
    manager.start()
    train(manager, epochs=1, steps=2)
    path = tmp_path / "net-1_2.ckpt"
    content = path.read_bytes()
    weight = load_checkpoint(path)["weight"].numpy().tobytes()
    path.write_bytes(content[:-9] if damage == "cut" else content.replace(weight, bytes(len(weight))))
    kept = path.read_bytes()
    manager = manager_of(tmp_path)
    with pytest.warns(UserWarning, match=r"net-1_2\.ckpt"):
        assert manager.resume("auto").step == 1
    manager.step(Moment(1, 2, 2, 2))
    assert path.read_bytes() == kept
    assert left(tmp_path) == ["net-1_1", "net-1_2", "net_2-1_2"]


def test_without_a_checkpoint_auto_starts_afresh_and_must_does_not(tmp_path):
    """`auto` is for a script that is simply started again."""
    manager = manager_of(tmp_path)
    assert manager.resume("auto").where is None
    train(manager, epochs=1, steps=1)
    with pytest.raises(CheckpointNotFoundError, match="prefix 'other'"):
        manager_of(tmp_path, prefix="other").resume("must")
    with pytest.raises(FileNotFoundError):
        manager_of(tmp_path).resume(tmp_path / "net-9_9.ckpt")


def test_going_on_from_an_older_checkpoint_begins_a_new_run(tmp_path):
    """The other future is not overwritten."""
    manager = manager_of(tmp_path)
    manager.start()
    train(manager, epochs=1, steps=3)
    manager = manager_of(tmp_path)
    assert manager.resume(tmp_path / "net-1_2.ckpt").step == 2
    manager.step(Moment(1, 3, 3, 3))
    assert left(tmp_path) == ["net-1_1", "net-1_2", "net-1_3", "net_2-1_3"]


def test_a_resume_that_does_not_fit_is_an_error_and_changes_nothing(tmp_path):
    """It never goes on half loaded."""
    manager = manager_of(tmp_path)
    manager.start()
    train(manager, epochs=1, steps=1)
    net = network()
    before = net.weight.detach().clone()
    with pytest.raises(LoadError, match="the state of SGD"):
        manager_of(tmp_path, net=net, optimizer=torch.optim.Adam(net.parameters())).resume("auto")
    assert torch.equal(net.weight, before)
    with pytest.raises(LoadError):
        manager_of(tmp_path, net=nn.Linear(3, 1)).resume("auto")


def test_a_file_that_is_not_a_trainings_cannot_be_resumed(tmp_path):
    """Weights alone say nothing of epoch and step; the message says what to do."""
    save_checkpoint(network(), tmp_path / "net-1_1.ckpt")
    with pytest.raises(LoadError, match="load_checkpoint"):
        manager_of(tmp_path).resume(tmp_path / "net-1_1.ckpt")


def test_an_expired_file_that_cannot_be_removed_is_told_and_does_not_stop_the_training(tmp_path, monkeypatch):
    """The training matters more than the disk's tidiness."""

    def refuse(self, name):
        raise SaveError(name, found="Permission denied", expected="a removal", remedy="Fix it.")

    monkeypatch.setattr(LocalStorage, "remove", refuse)
    manager = manager_of(tmp_path, keep_checkpoint_max=1)
    manager.start()
    with pytest.warns(UserWarning, match="could not be removed"):
        train(manager, epochs=1, steps=2)
    assert left(tmp_path) == ["net-1_1", "net-1_2"]


def test_old_checkpoints_go_only_after_the_new_one_is_durable(tmp_path, monkeypatch):
    """A failing save removes nothing."""
    manager = manager_of(tmp_path, keep_checkpoint_max=1)
    manager.start()
    manager.step(Moment(1, 1, 1))

    def refuse(self, name, nbytes, **settings):
        raise SaveError(name, found="No space left on device", expected="space", remedy="Free some.")

    monkeypatch.setattr(LocalStorage, "create", refuse)
    with pytest.raises(SaveError):
        manager.step(Moment(1, 2, 2))
    assert left(tmp_path) == ["net-1_1"]


@pytest.mark.parametrize(
    ("prefix", "message"),
    [("", "^prefix"), ("a/b", "^prefix"), ("../a", "^prefix"), (3, "^prefix")],
    ids=repr,
)
def test_a_bad_prefix_is_refused_with_the_fields_name(tmp_path, prefix, message):
    """At construction, not at the first save."""
    with pytest.raises(SettingError, match=message):
        manager_of(tmp_path, prefix=prefix)


def test_a_directory_that_cannot_be_written_to_is_refused_with_the_fields_name(tmp_path, monkeypatch):
    """At construction. (The system is asked; a test that runs as root would be told yes.)"""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SettingError, match="^directory: .* cannot be written to"):
        manager_of(tmp_path / "new")


def test_a_save_before_the_beginning_is_refused(tmp_path):
    """A manager has no run until it starts or resumes one."""
    with pytest.raises(SettingError, match="start"):
        manager_of(tmp_path).step(Moment(1, 1, 1))


def test_a_directory_that_is_a_file_is_refused_with_the_fields_name(tmp_path):
    """Also where the file stands in the middle of the path."""
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "inside", ""):
        with pytest.raises(SettingError, match="^directory"):
            manager_of(directory)


@pytest.mark.parametrize("has", [True, False], ids=["only the checkpoint", "only the training"])
@pytest.mark.parametrize("part", ["module", "optimizer", "scheduler"])
def test_an_object_that_only_one_side_has_is_refused_or_left_as_it_is(tmp_path, part, has):
    """Whatever kind it is of; without `strict`, the reports name it."""

    def manager(*, whole):
        net, other = nn.Linear(1, 1), nn.Linear(1, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
        objects = {
            "module": other,
            "optimizer": torch.optim.SGD(other.parameters(), lr=1.0),
            "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        }
        more = {"one": objects[part]} if whole else {}
        return CheckpointManager(tmp_path, net, optimizer, **more)

    with manager(whole=has) as checkpoints:
        checkpoints.start()
        checkpoints.step()
    with manager(whole=not has) as checkpoints:
        with pytest.raises(LoadError, match="one"):
            checkpoints.resume("must")
        checkpoints.resume("must", strict=False)
        report = checkpoints.reports[-1]
        assert report.unexpected + report.missing == ("one",)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda manager: manager.step(loss="low"), "the metric 'loss'"),
        (lambda manager: manager.save(loss=None), "the metric 'loss'"),
        (lambda manager: manager.report(loss=torch.ones(2)), "the metric 'loss'"),
        (lambda manager: manager.restore(None), "which"),
        (lambda manager: manager.resume(None), "which"),
        (lambda manager: list(manager.progress.epochs(2.5)), "epochs"),
        (lambda manager: list(manager.progress.steps(5)), "loader"),
        (lambda _: CheckpointManager(None), "directory"),
        (lambda _: CheckpointManager(".", config={}), "config"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_named(tmp_path, mistake, named):
    """Whatever it is, where it is given or first used."""
    with CheckpointManager(tmp_path, nn.Linear(1, 1)) as checkpoints:
        checkpoints.start()
        with pytest.raises(SettingTypeError, match=f"^{named}"):
            mistake(checkpoints)
        checkpoints.start()


def test_a_loop_that_draws_by_itself_goes_on_in_the_random_state_of_the_save(tmp_path):
    """Also one that asks for no batches."""

    def draw(folder, steps, seed):
        torch.manual_seed(seed)
        drawn = []
        with CheckpointManager(folder, nn.Linear(1, 1)) as checkpoints:
            progress = checkpoints.resume()
            while progress.global_step < steps:
                drawn.append(float(torch.rand(1)))
                checkpoints.step()
        return drawn

    straight = draw(tmp_path / "straight", 4, seed=0)
    assert draw(tmp_path / "cut", 2, seed=0) + draw(tmp_path / "cut", 4, seed=9) == straight


def test_a_manager_that_is_dropped_gives_the_signals_back(tmp_path):
    """Also without a close: nobody is left who would act on them."""
    before = signal.getsignal(signal.SIGTERM)
    manager = CheckpointManager(tmp_path, nn.Linear(1, 1), config=CheckpointConfig(save_on_signal=True))
    manager.start()
    assert signal.getsignal(signal.SIGTERM) != before
    del manager
    gc.collect()
    assert signal.getsignal(signal.SIGTERM) == before
