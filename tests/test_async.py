"""Saves that go on beside the training: the same files, nothing torn, nothing early, nothing silent."""

from __future__ import annotations

import gc
import os
import random
import tempfile
import threading
import warnings
from pathlib import Path

import pytest
import torch
from tests.clocks import FixedClock
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint
from milepost.errors import RunInUseError, SaveError, SettingError, SnapshotError
from milepost.moment import Moment
from milepost.storage.local import LocalStorage
from milepost.training_state import TrainingState

MODES = (False, True, "lazy")
BACKGROUND = ("copied", "lazy")


class Gate:
    """Lets no file be written until it is opened."""

    def __init__(self, monkeypatch):
        self._opened = threading.Event()
        self._error: BaseException | None = None
        create = LocalStorage.create

        def wait_and_create(storage, name, nbytes, **settings):
            if name.endswith(".ckpt") and threading.current_thread() is not threading.main_thread():
                assert self._opened.wait(30)
                if self._error is not None:
                    raise self._error
            return create(storage, name, nbytes, **settings)

        monkeypatch.setattr(LocalStorage, "create", wait_and_create)

    def open(self, error=None):
        self._error = error
        self._opened.set()

    def shut(self):
        self._opened.clear()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open()


class Training:
    """A small network with batch statistics, its optimizer, and their manager."""

    def __init__(self, folder, mode, net=None, **settings):
        torch.manual_seed(1)
        self.net = net or nn.Sequential(nn.Linear(4, 40), nn.BatchNorm1d(40), nn.Linear(40, 1))
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=0.1)
        config = CheckpointConfig(async_save=mode, **settings)
        self.manager = CheckpointManager(folder, self.net, self.optimizer, config=config, clock=FixedClock())
        self.count = self.manager.start().global_step

    def forward_and_back(self):
        self.optimizer.zero_grad()
        self.net(torch.randn(8, 4)).square().mean().backward()

    def step(self):
        """One step of the training, and what it says to its manager."""
        self.forward_and_back()
        self.optimizer.step()
        self.tell()

    def tell(self):
        self.count += 1
        self.manager.step(Moment(1, self.count, self.count))


def entries(path) -> bytes:
    """The bytes of a file from its beginning to where the metadata begin."""
    index = load_checkpoint(path)._reader.index
    end = max(extent.offset + extent.length for entry in index.entries.values() for extent in entry.extents)
    return path.read_bytes()[:end]


def facts(path) -> dict:
    """What a file says of itself, but for what the save before it cost."""
    return {key: value for key, value in load_checkpoint(path).metadata.items() if key != "last_save"}


def weight(path) -> torch.Tensor:
    return load_checkpoint(path)["0.weight"]


def settled(path) -> list[str]:
    return sorted(each.name for each in path.glob("*.ckpt"))


def test_all_modes_leave_the_same_files_with_the_same_bytes(tmp_path):
    """One training, saved at each step in each mode: every entry and every fact."""
    for mode in MODES:
        training = Training(tmp_path / str(mode), mode, keep_checkpoint_max=None)
        with training.manager:
            for _ in range(8):
                training.step()
    files = [settled(tmp_path / str(mode)) for mode in MODES]
    assert files[0] == files[1] == files[2]
    assert len(files[0]) == 8
    for name in files[0]:
        expected, *others = (tmp_path / str(mode) / name for mode in MODES)
        for other in others:
            assert entries(other) == entries(expected), f"{other}"
            assert facts(other) == facts(expected)


@pytest.mark.parametrize("mode", BACKGROUND)
def test_nothing_moves_before_the_file_is_durable(tmp_path, gate, mode):
    """Neither `latest`, nor the stats, nor what is kept, nor the name of the best."""
    training = Training(tmp_path, mode, keep_checkpoint_max=1, monitor="accuracy")
    gate.open()
    training.step()
    training.manager.report(accuracy=0.5)
    training.manager.wait()
    first = training.manager.latest()
    assert training.manager.best() == first
    gate.shut()
    training.step()
    training.manager.report(accuracy=0.9)
    assert training.manager.latest() == training.manager.best() == first
    assert training.manager.stats.saved == 1
    assert settled(tmp_path) == ["CKP-1_1.ckpt", "CKP-best.ckpt"]
    gate.open()
    training.manager.wait()
    assert training.manager.latest() == training.manager.best() == tmp_path / "CKP-1_2.ckpt"
    assert training.manager.stats.saved == 2
    assert settled(tmp_path) == ["CKP-1_2.ckpt", "CKP-best.ckpt"]
    assert torch.equal(weight(tmp_path / "CKP-best.ckpt"), weight(tmp_path / "CKP-1_2.ckpt"))
    training.manager.close()


@pytest.mark.parametrize("mode", BACKGROUND)
def test_what_is_reported_of_a_checkpoint_in_flight_counts_for_it(tmp_path, gate, mode):
    """Also after a restart, although the file was written without it."""
    training = Training(tmp_path, mode, monitor="accuracy")
    training.step()
    training.manager.report(accuracy=0.7)
    gate.open()
    training.manager.wait()
    assert training.manager.all()[0].metrics == {"accuracy": 0.7}
    training.manager.close()
    again = CheckpointManager(tmp_path, training.net, training.optimizer, config=CheckpointConfig(monitor="accuracy"))
    again.resume()
    assert again.all()[0].metrics == {"accuracy": 0.7}
    again.close()


@pytest.mark.parametrize("mode", BACKGROUND)
def test_a_due_save_waits_for_the_one_in_flight(tmp_path, gate, mode):
    """By default none is left out."""
    training = Training(tmp_path, mode)
    training.step()
    waiting = threading.Thread(target=training.step)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    gate.open()
    waiting.join(60)
    training.manager.close()
    assert settled(tmp_path) == ["CKP-1_1.ckpt", "CKP-1_2.ckpt"]


@pytest.mark.parametrize("mode", BACKGROUND)
def test_a_due_save_can_be_left_out_while_one_is_in_flight(tmp_path, gate, mode):
    """It is told once, and counted, and the next that is due after the flight is made."""
    training = Training(tmp_path, mode, when_busy="skip")
    training.step()
    with pytest.warns(UserWarning, match="the checkpoint of step 2 is left out"):
        training.step()
    training.step()
    gate.open()
    training.manager.wait()
    training.step()
    training.manager.close()
    assert settled(tmp_path) == ["CKP-1_1.ckpt", "CKP-1_4.ckpt"]
    assert training.manager.stats.skipped == 2
    assert "2 skipped" in str(training.manager.stats)


@pytest.mark.parametrize("mode", BACKGROUND)
@pytest.mark.parametrize("moment", ["step", "wait", "close", "save"])
def test_a_failure_surfaces_at_the_next_call(tmp_path, gate, mode, moment):
    """Once, as what it was; and the step that was not saved is not taken for saved."""
    training = Training(tmp_path, mode)
    training.step()
    gate.open(SaveError(tmp_path, found="no room", expected="some", remedy="Free some."))
    training.manager._recorder.saver.wait()
    gate.open()
    acts = {
        "step": training.step,
        "wait": training.manager.wait,
        "close": training.manager.close,
        "save": lambda: training.manager.save(Moment(1, 5, 5)),
    }
    with pytest.raises(SaveError, match="no room"):
        acts[moment]()
    assert training.manager.stats.failed == 1
    if moment != "close":
        training.manager.save(Moment(1, 1, 1))
        training.manager.close()
        assert "CKP-1_1.ckpt" in settled(tmp_path)


@pytest.mark.parametrize("mode", BACKGROUND)
def test_with_warn_a_failure_is_told_and_the_training_goes_on(tmp_path, gate, mode):
    """As in a save that the training waits for."""
    training = Training(tmp_path, mode, on_error="warn")
    training.step()
    gate.open(SaveError(tmp_path, found="no room", expected="some", remedy="Free some."))
    training.manager._recorder.saver.wait()
    gate.open()
    with pytest.warns(UserWarning, match="the next due save is tried.*no room"):
        training.step()
    training.manager.close()
    assert settled(tmp_path) == ["CKP-1_2.ckpt"]


@pytest.mark.parametrize("mode", BACKGROUND)
def test_a_failure_after_an_exception_does_not_hide_it(tmp_path, gate, mode):
    """What ends the training matters more; the failure is told."""
    training = Training(tmp_path, mode)
    training.step()
    gate.open(SaveError(tmp_path, found="no room", expected="some", remedy="Free some."))
    with pytest.warns(UserWarning, match="not saved.*no room"):
        training.manager.__exit__(ZeroDivisionError, ZeroDivisionError(), None)


@pytest.mark.parametrize("mode", BACKGROUND)
def test_the_end_finishes_what_was_begun(tmp_path, gate, mode):
    """And saves the last step, both durable when the block has ended."""
    training = Training(tmp_path, mode, save_checkpoint_steps=2)
    with training.manager:
        for _ in range(3):
            training.step()
        gate.open()
    assert settled(tmp_path) == ["CKP-1_2.ckpt", "CKP-1_3.ckpt"]
    assert training.manager.latest().name == "CKP-1_3.ckpt"


@pytest.mark.parametrize("mode", BACKGROUND)
def test_an_exception_saves_the_last_step_after_what_is_in_flight(tmp_path, gate, mode):
    """Under a name that says so."""
    training = Training(tmp_path, mode, save_checkpoint_steps=2, exception_save=True)
    with pytest.raises(ZeroDivisionError), training.manager:
        for _ in range(3):
            training.step()
        gate.open()
        raise ZeroDivisionError
    assert settled(tmp_path) == ["CKP-1_2.ckpt", "CKP-1_3_breakpoint.ckpt"]


@pytest.mark.parametrize("mode", BACKGROUND)
def test_a_run_is_held_until_its_last_file_is_written(tmp_path, gate, mode):
    """Also by a manager that was dropped."""
    training = Training(tmp_path, mode)
    training.step()
    net = training.net
    del training
    gc.collect()
    other = CheckpointManager(tmp_path, net)
    gate.open()
    for thread in threading.enumerate():
        if thread.name == "milepost":
            thread.join()
    assert other.resume(strict=False).global_step == 1
    other.close()


def test_a_dropped_manager_s_run_is_not_taken_while_it_is_written(tmp_path, gate):
    """The second file of a run is in flight, and its first could be resumed."""
    training = Training(tmp_path, "lazy")
    gate.open()
    training.step()
    training.manager.wait()
    gate.shut()
    training.step()
    net = training.net
    del training
    gc.collect()
    with pytest.raises(RunInUseError):
        CheckpointManager(tmp_path, net).resume(strict=False)


@pytest.mark.parametrize("mode", BACKGROUND)
def test_a_restore_waits_for_the_save_in_flight(tmp_path, gate, mode):
    """Else it would change what is being written."""
    training = Training(tmp_path, mode)
    gate.open()
    training.step()
    training.manager.wait()
    gate.shut()
    training.step()
    expected = training.net[0].weight.detach().clone()
    threading.Timer(0.1, gate.open).start()
    training.manager.restore(tmp_path / "CKP-1_1.ckpt")
    training.manager.close()
    assert torch.equal(weight(tmp_path / "CKP-1_2.ckpt"), expected)
    assert torch.equal(weight(tmp_path / "CKP-1_1.ckpt"), training.net[0].weight)


def test_a_lazy_save_copies_what_no_step_guards_and_nothing_else(tmp_path, gate):
    """Batch statistics, which forward changes, an EMA and a frozen part; not parameters and moments."""
    net = nn.Sequential(nn.Linear(4, 1000), nn.BatchNorm1d(1000))
    net.frozen = nn.Parameter(torch.zeros(500), requires_grad=False)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad])
    net(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    manager = CheckpointManager(tmp_path, net, optimizer, ema=ema, config=CheckpointConfig(async_save="lazy"))
    manager.start()
    before = {name: value.clone() for name, value in {**net.state_dict(), **ema.state_dict()}.items()}
    manager.step(Moment(1, 1, 1))
    ema.update_parameters(net)
    net(torch.randn(8, 4)).sum().backward()
    with torch.no_grad():
        net.frozen.add_(1)
    gate.open()
    manager.close()
    saved = load_checkpoint(tmp_path / "CKP-1_1.ckpt")
    for name in net.state_dict():
        assert torch.equal(saved[name], before[name]), name
    assert torch.equal(saved.part("ema")["module.1.running_mean"], before["module.1.running_mean"])
    own = 4 * (2000 + 500)
    assert own < manager.stats.last.copied_nbytes < own + 4 * 10_000 + 20_000


def test_a_lazy_save_is_a_copied_one_where_steps_may_be_part_of_a_graph(tmp_path, gate):
    """To replay a CUDA graph calls no hook and moves no counter, as `.data` does not."""
    training = Training(tmp_path, "lazy")
    training.forward_and_back()
    training.optimizer.step()
    training.optimizer.param_groups[0]["capturable"] = True
    before = training.net[0].weight.clone()
    training.tell()
    training.net[0].weight.data.mul_(2)
    gate.open()
    training.manager.wait()
    assert torch.equal(weight(training.manager.latest()), before)
    assert training.manager.stats.last.mode == "copied"
    training.manager.close()


def test_a_step_of_any_optimizer_waits_for_the_copies(tmp_path, gate):
    """Of two that a manager was given."""
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizers = [torch.optim.SGD(each.parameters(), lr=1.0) for each in (first, second)]
    config = CheckpointConfig(async_save="lazy")
    manager = CheckpointManager(tmp_path, first, optimizers[0], other=second, by=optimizers[1], config=config)
    manager.start()
    expected = [each.weight.detach().clone() for each in (first, second)]
    manager.step(Moment(1, 1, 1))
    for net, optimizer in zip((second, first), reversed(optimizers), strict=True):
        net(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    gate.open()
    manager.close()
    saved = load_checkpoint(tmp_path / "CKP-1_1.ckpt")
    assert torch.equal(saved["weight"], expected[0])
    assert torch.equal(saved.part("other")["weight"], expected[1])


SEEN_WRITES = {
    "clipped": lambda weight: weight.clamp_(-0.01, 0.01),
    "by way of a view": lambda weight: weight.view(-1)[:3].zero_(),
    "foreach": lambda weight: torch._foreach_mul_([weight], 0.5),
    "copied into": lambda weight: weight.copy_(torch.zeros_like(weight)),
    "initialised": lambda weight: nn.init.zeros_(weight),
    "out=": lambda weight: torch.mul(weight, 2, out=weight),
}


@pytest.mark.parametrize("write", SEEN_WRITES)
def test_a_write_out_of_turn_publishes_nothing_and_the_next_step_is_saved_instead(tmp_path, gate, write):
    """The tensor is copied from then on, so that the same write does no harm any more."""
    training = Training(tmp_path, "lazy", save_checkpoint_steps=10)
    clip = SEEN_WRITES[write]
    training.step()
    training.manager.save(Moment(1, 1, 1))
    with torch.no_grad():
        clip(training.net[0].weight)
    gate.open()
    training.manager._recorder.saver.wait()
    assert settled(tmp_path) == []
    with pytest.warns(UserWarning, match="given up.*'0.weight': found a write"):
        training.step()
    gate.shut()
    expected = training.net[0].weight.detach().clone()
    with torch.no_grad():
        clip(training.net[0].weight)
    gate.open()
    training.manager.wait()
    assert settled(tmp_path) == ["CKP-1_2.ckpt"]
    assert torch.equal(weight(tmp_path / "CKP-1_2.ckpt"), expected)
    assert training.manager.stats.torn == 1
    training.manager.close()


def test_a_load_out_of_turn_is_seen_too(tmp_path, gate):
    """It reads into the parameters' memory."""
    training = Training(tmp_path, "lazy")
    gate.open()
    training.step()
    training.manager.wait()
    gate.shut()
    training.step()
    load_checkpoint(tmp_path / "CKP-1_1.ckpt", net=training.net)
    gate.open()
    with pytest.warns(UserWarning, match="given up"):
        training.manager.wait()
    training.manager.close()
    assert settled(tmp_path) == ["CKP-1_1.ckpt"]


UNSEEN_WRITES = {
    ".data.clamp_": lambda weight: weight.data.clamp_(-0.01, 0.01),
    ".data.copy_": lambda weight: weight.data.copy_(torch.zeros_like(weight)),
    "NumPy": lambda weight: weight.detach().numpy().fill(0.5),
    "vector_to_parameters": lambda weight: vector_into(weight),
}


def vector_into(weight):
    """torch's own way to set parameters from a vector, which goes by `.data`; the memory becomes another one."""
    weight.data.add_(1)
    nn.utils.vector_to_parameters(torch.zeros(weight.numel()), [weight])


@pytest.mark.parametrize("when", ["before it is written", "after it is written"])
@pytest.mark.parametrize("write", UNSEEN_WRITES)
def test_the_debug_mode_names_a_tensor_that_was_written_to_unseen(tmp_path, gate, write, when):
    """Whenever the write comes, the optimizer's next step says so; and the file is right all the same."""
    training = Training(tmp_path, "lazy", check_snapshots=True)
    training.step()
    expected = training.net[0].weight.detach().clone()
    if when == "after it is written":
        gate.open()
        training.manager._recorder.saver.wait()
    UNSEEN_WRITES[write](training.net[0].weight)
    gate.open()
    training.forward_and_back()
    with pytest.raises(SnapshotError, match=r"entry '0.weight': found a write between.*torch.no_grad\(\)"):
        training.optimizer.step()
    training.manager.close()
    assert torch.equal(weight(tmp_path / "CKP-1_1.ckpt"), expected)


@pytest.mark.parametrize("end", ["wait", "close", "save"])
def test_the_debug_mode_looks_also_where_no_step_follows(tmp_path, end):
    """At the end of the training, and at the next save."""
    training = Training(tmp_path, "lazy", check_snapshots=True)
    training.step()
    training.net[2].bias.data.add_(1)
    with pytest.raises(SnapshotError, match="entry '2.bias'"):
        {"wait": training.manager.wait, "close": training.manager.close, "save": training.tell}[end]()
    training.manager.close()


def test_the_debug_mode_is_silent_where_all_is_well(tmp_path):
    """Clipping by way of no_grad is what it asks for, behind the optimizer's step."""
    training = Training(tmp_path, "lazy", check_snapshots=True)
    with training.manager:
        for _ in range(5):
            training.forward_and_back()
            training.optimizer.step()
            training.net[0].weight.data.clamp_(-0.01, 0.01)
            training.tell()
    assert training.manager.stats.saved == 5


FUSED = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
}


@pytest.mark.parametrize("optimizer", FUSED)
def test_an_optimizer_whose_step_moves_no_counter_is_held_back_all_the_same(tmp_path, gate, optimizer):
    """Fused ones write past the counters; the hook before the step does not need them."""
    net = nn.Linear(4, 4)
    by = FUSED[optimizer](net.parameters())

    def closure():
        by.zero_grad()
        loss = net(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    by.step(closure)
    expected = net.weight.detach().clone()
    manager = CheckpointManager(tmp_path, net, by, config=CheckpointConfig(async_save="lazy"))
    manager.start()
    manager.step(Moment(1, 1, 1))
    by.step(closure)
    assert not torch.equal(net.weight, expected)
    gate.open()
    manager.close()
    assert torch.equal(weight_of(tmp_path / "CKP-1_1.ckpt"), expected)


def weight_of(path):
    return load_checkpoint(path)["weight"]


def test_a_manager_that_is_closed_leaves_the_optimizer_alone(tmp_path):
    """No hook stays."""
    training = Training(tmp_path, "lazy")
    training.step()
    assert len(training.optimizer._optimizer_step_pre_hooks) == 2
    training.manager.close()
    assert len(training.optimizer._optimizer_step_pre_hooks) == 0


@pytest.mark.parametrize("mode", BACKGROUND)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12, about just this
def test_workers_that_are_forked_in_a_save_neither_hang_nor_write(tmp_path, gate, mode):
    """A DataLoader that makes its workers while a file is in flight."""
    training = Training(tmp_path, mode)
    training.step()
    loader = DataLoader(torch.arange(8.0), batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert len(list(loader)) == 4
    gate.open()
    assert len(list(loader)) == 4
    training.manager.close()
    assert settled(tmp_path) == ["CKP-1_1.ckpt"]
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("mode", BACKGROUND)
def test_threads_may_save_through_one_manager_in_the_background(tmp_path, mode):
    """They take turns."""
    training = Training(tmp_path, mode, keep_checkpoint_max=99, save_checkpoint_steps=None)

    def save(first):
        for step in range(first, first + 5):
            training.manager.save(Moment(1, step, step))

    threads = [threading.Thread(target=save, args=(1 + 10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    training.manager.close()
    assert len(settled(tmp_path)) == 20
    assert training.manager.stats.saved == 20


def test_the_cost_of_a_save_stands_in_the_stats_and_in_the_next_checkpoint(tmp_path, gate):
    """Seconds in the step and in the hook, bytes copied, seconds beside the training, the file's size."""
    training = Training(tmp_path, "lazy")
    training.step()
    training.forward_and_back()
    threading.Timer(0.1, gate.open).start()
    training.optimizer.step()
    training.manager.wait()
    cost = training.manager.stats.last
    assert (cost.name, cost.mode) == ("CKP-1_1.ckpt", "lazy")
    assert cost.file_nbytes == (tmp_path / "CKP-1_1.ckpt").stat().st_size
    assert cost.step_seconds > 0
    assert 0 < cost.hook_seconds < 1
    assert cost.background_seconds > 0
    assert cost.copied_nbytes > 3 * 4 * (160 + 40 + 40 + 40 + 40 + 1)
    assert str(cost).startswith("CKP-1_1.ckpt: 0.0")
    training.tell()
    training.manager.close()
    said = load_checkpoint(tmp_path / "CKP-1_2.ckpt").metadata["last_save"]
    assert said == cost.__dict__
    assert training.manager.stats.total.file_nbytes > cost.file_nbytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"async_save": "process"}, 'async_save: found \'process\'; expected False, True, "copied" or "lazy"'),
        ({"async_save": 1}, "async_save: found 1"),
        ({"when_busy": "drop"}, "when_busy: found 'drop'"),
        ({"check_snapshots": "yes"}, "check_snapshots: found 'yes'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    """Where they are given."""
    with pytest.raises(SettingError) as caught:
        CheckpointConfig(**settings)
    assert message in str(caught.value)


def files_of_a_disturbed_training(folder, mode, steps) -> tuple[dict[int, bytes], int]:
    """The entries of each file of a training whose hooks write to parameters and to an average of them at random."""
    chance = random.Random(7)
    training = Training(folder, mode, keep_checkpoint_max=None)
    parameters = list(training.net.parameters())
    average = AveragedModel(training.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    training.manager._recorder._state = TrainingState(training.net, training.optimizer, {"average": average})

    def disturb(*_):
        with torch.no_grad():
            for _ in range(chance.randrange(3)):
                chance.choice(parameters).clamp_(-1, 1).add_(chance.random() / 100)
        if chance.random() < 0.5:
            average.update_parameters(training.net)

    training.net.register_forward_pre_hook(lambda *_: disturb() if chance.random() < 0.1 else None)
    training.optimizer.register_step_pre_hook(disturb)
    training.optimizer.register_step_post_hook(disturb)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "a checkpoint was given up")
        for _ in range(steps):
            training.step()
        training.manager.close()
    paths = {int(path.stem.split("_")[1]): path for path in folder.glob("*.ckpt")}
    return {step: entries(path) for step, path in paths.items()}, training.manager.stats.torn


@pytest.fixture
def in_memory(tmp_path):
    """A folder where an fsync costs nothing, if there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="milepost-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.slow
def test_a_thousand_saves_under_writes_from_everywhere_are_the_same_in_every_mode(in_memory):
    """Random clipping, averaging and noise, before and after each part of a step; no file is ever mixed."""
    expected, _ = files_of_a_disturbed_training(in_memory / "sync", False, 1000)
    copied, _ = files_of_a_disturbed_training(in_memory / "copied", True, 1000)
    lazy, torn = files_of_a_disturbed_training(in_memory / "lazy", "lazy", 1000)
    assert len(expected) == 1000
    assert copied == expected
    assert 0 < torn < 20, "each tensor is copied from the first time on"
    assert len(lazy) == 1000 - torn
    assert all(content == expected[step] for step, content in lazy.items())
