"""Trainings that are interrupted where it hurts: what is saved is the last step's, or is told not to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, CheckpointManager, Model, ModelCheckpoint, load_checkpoint
from milepost.errors import SaveError, TrainingError
from milepost.policy.save import Never
from milepost.storage.local import LocalStorage
from milepost.train.callback import Callback


class Failed(Exception):
    """What a training runs into."""


class Loop:
    """A loop with noise in its forward pass, that fails where it is told to."""

    def __init__(self, folder, **settings):
        torch.manual_seed(0)
        self.net = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.1, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)
        config = CheckpointConfig(exception_save=True, **{"save": Never()} | settings)
        self.manager = CheckpointManager(folder, self.net, self.optimizer, scheduler=self.scheduler, config=config)
        self.loader = torch.utils.data.DataLoader(torch.arange(6.0).view(3, 2), batch_size=1, shuffle=True)

    def run(self, fails_at=None, place="forward"):
        def meet(here):
            if (progress.global_step, here) == (fails_at, place):
                raise Failed

        with self.manager as checkpoints:
            progress = checkpoints.resume()
            for epoch in progress.epochs(3):
                for batch in progress.steps(self.loader):
                    noise = torch.rand(2)
                    meet("forward")
                    self.optimizer.zero_grad()
                    self.net(batch + noise).sum().backward()
                    self.optimizer.step()
                    meet("after the optimizer's step")
                    checkpoints.step()
                    meet("after the step")
                self.scheduler.step()
                meet("tail")
                checkpoints.report(epoch=epoch)
        return self.net.weight.detach().clone()


@pytest.mark.parametrize("at", range(1, 10))
@pytest.mark.parametrize("place", ["forward", "after the step"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_training_goes_on_to_the_bit_from_where_an_exception_left_it(tmp_path, at, place):
    """With the random state of the last step, not that of the exception; also in an epoch's first batch."""
    straight = Loop(tmp_path / "straight").run()
    with pytest.raises(Failed):
        Loop(tmp_path / "cut").run(at, place)
    torch.manual_seed(99)
    loop = Loop(tmp_path / "cut")
    assert torch.equal(loop.run(), straight)
    if (at, place) != (1, "forward"):
        assert loop.manager.progress.where is not None


def test_a_step_that_has_begun_is_not_saved_as_the_one_before(tmp_path):
    """Its batch would be trained with twice; the newest checkpoint before is exact."""
    straight = Loop(tmp_path / "straight").run()
    settings = {"save": None, "save_checkpoint_steps": 2}
    with pytest.warns(UserWarning, match=r"step 5 is not saved, because .* had begun .*CKP-2_1"), pytest.raises(Failed):
        Loop(tmp_path / "cut", **settings).run(6, "after the optimizer's step")
    assert torch.equal(Loop(tmp_path / "cut", **settings).run(), straight)


def test_an_exception_in_the_lines_after_the_batches_is_told_to_do_them_again(tmp_path):
    """Nobody sees which of them were done."""
    with pytest.warns(UserWarning, match="step 6 is saved within the lines that follow"), pytest.raises(Failed):
        Loop(tmp_path).run(6, "tail")
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["CKP-2_3_breakpoint.ckpt"]


def test_a_callback_that_fails_after_the_update_leaves_no_breakpoint(tmp_path):
    """In `Model.train` too, where it stands before the one that saves."""

    class Fails(Callback):
        def on_train_step_end(self, run_context):
            if run_context.original_args().cur_step_num == 3:
                raise Failed

    net = nn.Linear(2, 1)
    model = Model(net, nn.MSELoss(), torch.optim.SGD(net.parameters(), lr=0.1))
    saver = ModelCheckpoint("net", tmp_path, CheckpointConfig(save_checkpoint_steps=9, exception_save=True))
    batches = [(torch.ones(1, 2), torch.ones(1, 1))] * 4
    with pytest.warns(UserWarning, match="step 2 is not saved"), pytest.raises(Failed):
        model.train(1, batches, [Fails(), saver])
    assert list(tmp_path.glob("*.ckpt")) == []


@pytest.mark.parametrize("async_save", [False, "lazy"])
def test_the_last_step_is_saved_before_another_is_restored(tmp_path, async_save):
    """What is restored has another step; under the last one's name stands what was trained."""
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    config = CheckpointConfig(save_checkpoint_steps=100, monitor="accuracy", async_save=async_save)
    with CheckpointManager(tmp_path, net, optimizer, config=config) as checkpoints:
        progress = checkpoints.start()
        for epoch in progress.epochs(4):
            for _ in progress.steps(range(3)):
                optimizer.zero_grad()
                net(torch.ones(1, 1)).sum().backward()
                optimizer.step()
                checkpoints.step()
            checkpoints.report(accuracy=-abs(epoch - 2))
        trained = net.weight.item()
        checkpoints.wait()
        checkpoints.restore(checkpoints.best())
        assert net.weight.item() == pytest.approx(trained + 6)
        assert checkpoints.save() == tmp_path / "CKP-4_3.ckpt"
    assert load_checkpoint(tmp_path / "CKP-4_3.ckpt")["weight"].item() == trained
    assert load_checkpoint(tmp_path / "CKP-2_3.ckpt")["weight"].item() == pytest.approx(trained + 6)


def test_a_signal_says_what_it_ended_and_where_to_go_on(tmp_path):
    """A process that ends without a word leaves its user to look for the reason."""
    loop = Loop(tmp_path, save_on_signal=True)

    def train():
        with loop.manager as checkpoints:
            for place in checkpoints.start().steps(range(5)):
                if place == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                checkpoints.step()

    with (
        pytest.warns(
            UserWarning, match="SIGTERM ends the training; newest checkpoint: .*CKP-1_2_breakpoint.ckpt"
        ) as told,
        pytest.raises(SystemExit) as caught,
    ):
        train()
    assert (caught.value.code, [each.filename for each in told]) == (128 + signal.SIGTERM, [__file__])


def descend(checkpoints, net, optimizer, at, act):
    """Steps by one, and at one of them something between the optimizer's step and the manager's."""
    progress = checkpoints.start()
    for place in progress.steps(range(5)):
        optimizer.zero_grad()
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        if place == at and act():
            break
        checkpoints.step()


@pytest.mark.parametrize("steps", [1, 100])
def test_a_loop_that_is_left_after_the_optimizer_s_step_has_done_it(tmp_path, steps):
    """What is saved at the end is that step, not the one before with its successor's weights."""
    net = nn.Linear(1, 1)
    before = net.weight.item()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    config = CheckpointConfig(save_checkpoint_steps=steps)
    with CheckpointManager(tmp_path, net, optimizer, config=config) as checkpoints:
        descend(checkpoints, net, optimizer, 3, lambda: True)
    found = {path.name: round(before - load_checkpoint(path)["weight"].item()) for path in tmp_path.glob("*.ckpt")}
    assert found == {f"CKP-1_{step}.ckpt": step for step in ([1, 2, 3, 4] if steps == 1 else [4])}


def test_a_step_that_is_undone_is_saved_as_no_other(tmp_path):
    """After a divergence that was seen before the manager's step, there is no last step left to be saved."""
    net = nn.Linear(1, 1)
    before = net.weight.item()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    config = CheckpointConfig(save_checkpoint_steps=2)
    with CheckpointManager(tmp_path, net, optimizer, config=config) as checkpoints:
        descend(checkpoints, net, optimizer, 3, lambda: checkpoints.restore(checkpoints.latest()))
    found = {path.name: round(before - load_checkpoint(path)["weight"].item()) for path in tmp_path.glob("*.ckpt")}
    assert found == {"CKP-1_2.ckpt": 2}


def test_nothing_is_restored_where_the_last_step_cannot_be_saved(tmp_path, monkeypatch):
    """It would be lost."""
    net = nn.Linear(1, 1)
    with CheckpointManager(tmp_path, net) as checkpoints:
        checkpoints.start()
        checkpoints.step()
    again = CheckpointManager(tmp_path, net, config=CheckpointConfig(save=Never()))
    for _ in again.start().steps("ab"):
        again.step()
    with torch.no_grad():
        net.weight.fill_(5.0)

    def refuse(*_):
        raise OSError(28, "planned")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(SaveError):
        again.restore(tmp_path / "CKP-1_1.ckpt")
    assert net.weight.item() == 5.0
    monkeypatch.undo()
    again.close()


def test_what_a_rollback_undoes_is_not_saved(tmp_path):
    """Within the loops: a resume must not find the divergence that the training came back from."""
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    config = CheckpointConfig(save=Never(), keep_checkpoint_max=1)
    with CheckpointManager(tmp_path, net, optimizer, config=config) as checkpoints:
        progress = checkpoints.start()
        for _ in progress.epochs(1):
            for _ in progress.steps(range(5)):
                optimizer.step()
                checkpoints.step()
                if progress.step == 2:
                    good = checkpoints.save()
                if progress.step == 3:
                    with torch.no_grad():
                        net.weight.fill_(float("nan"))
                    checkpoints.restore(good)
                    break
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["CKP-1_2.ckpt"]


def test_what_is_restored_after_an_epoch_s_batches_is_what_the_epoch_leaves(tmp_path):
    """As everything else that its last lines do: the next epoch goes on from there, also after a resume."""

    def train(folder, stop=None):
        torch.manual_seed(0)
        net = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        with CheckpointManager(folder, net, optimizer, scheduler=scheduler) as checkpoints:
            progress = checkpoints.resume()
            for epoch in progress.epochs(2):
                for _ in progress.steps(range(3)):
                    optimizer.zero_grad()
                    net(torch.ones(1, 1)).square().sum().backward()
                    optimizer.step()
                    checkpoints.step()
                    if (epoch, progress.step) == stop:
                        checkpoints.close()
                        return None
                if epoch == 1:
                    checkpoints.restore(folder / "CKP-1_1.ckpt")
                scheduler.step()
        return [net.weight.item(), net.bias.item(), optimizer.param_groups[0]["lr"]]

    straight = train(tmp_path / "straight")
    train(tmp_path / "cut", stop=(2, 1))
    assert train(tmp_path / "cut") == straight


def test_a_breakpoint_is_saved_where_the_save_in_flight_fails(tmp_path, monkeypatch):
    """An exception and a disk that was full for a moment: the last step is there."""
    loop = Loop(tmp_path, save=None, save_checkpoint_steps=1, async_save=True)
    real, calls = LocalStorage.create, []

    def refuse_the_third(self, name, *arguments, **settings):
        calls.append(name)
        if len(calls) == 3:
            time.sleep(0.3)  # until the exception is on its way
            raise SaveError(name, found="planned", expected="nothing", remedy="None.")
        return real(self, name, *arguments, **settings)

    def train():
        with loop.manager as checkpoints:
            for place in checkpoints.start().steps(range(3)):
                monkeypatch.setattr(LocalStorage, "create", refuse_the_third)
                loop.optimizer.step()
                checkpoints.step()
                if place < 2:
                    checkpoints.wait()
            raise Failed

    with pytest.warns(UserWarning, match="was not saved"), pytest.raises(Failed):
        train()
    assert (tmp_path / "CKP-1_3_breakpoint.ckpt").exists()


def test_a_report_within_a_step_saves_nothing_of_it(tmp_path):
    """Nor does it take the random state of a step that is not done for that of the last."""
    loop = Loop(tmp_path, monitor="accuracy")
    with pytest.raises(Failed), loop.manager as checkpoints:
        for _ in checkpoints.start().steps(range(5)):
            if checkpoints.progress.step == 3:
                expected = torch.get_rng_state()
            torch.rand(1)
            loop.optimizer.step()
            if checkpoints.progress.step == 3:
                checkpoints.report(accuracy=1.0)
                assert list(tmp_path.glob("*.ckpt")) == []
                loop.manager._watch.has_begun = False  # as if the optimizer had not stepped: a breakpoint is saved
                raise Failed
            checkpoints.step()
    (left,) = tmp_path.glob("*_breakpoint.ckpt")
    assert torch.equal(load_checkpoint(left).state("random")["torch"], expected)


def accumulate(folder, every, *, manager_every=1, clears="after"):
    """Gradients of several batches for each step of the optimizer; the weights that come out."""
    torch.manual_seed(0)
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with CheckpointManager(folder, net, optimizer) as checkpoints:
        progress = checkpoints.start()
        for batch in progress.steps(torch.arange(1.0, 9.0).view(8, 1, 1)):
            if clears == "before" and (progress.step - 1) % every == 0:
                optimizer.zero_grad(set_to_none=False)
            net(batch).sum().backward()
            if progress.step % every == 0:
                optimizer.step()
                if clears == "after":
                    optimizer.zero_grad()
                if clears == "to zero":
                    optimizer.zero_grad(set_to_none=False)
            if progress.step % manager_every == 0:
                checkpoints.step()


@pytest.mark.parametrize("clears", ["before", "after", "to zero"])
def test_gradients_that_are_gathered_are_told_to_be_in_no_checkpoint(tmp_path, clears):
    """Once; a training that went on from there would use less of them."""
    with pytest.warns(UserWarning, match="gradients are gathered over several steps") as told:
        accumulate(tmp_path, 2, clears=clears)
    assert len(told) == 1


@pytest.mark.parametrize("clears", ["before", "after", "to zero"])
@pytest.mark.parametrize(("every", "manager_every"), [(1, 1), (2, 2), (1, 4)])
def test_gradients_that_are_used_are_not_told_of(tmp_path, every, manager_every, clears):
    """However and wherever they are cleared."""
    accumulate(tmp_path, every, manager_every=manager_every, clears=clears)


def test_gradients_that_come_through_a_critic_are_not_told_of(tmp_path):
    """The generator's step leaves some in the critic, which has stepped, and clears them before it uses its own."""
    parts = {name: nn.Linear(1, 1) for name in ("net", "critic")}
    optimizers = {name: torch.optim.SGD(part.parameters(), lr=0.1) for name, part in parts.items()}
    with CheckpointManager(
        tmp_path, parts["net"], optimizers["net"], critic=parts["critic"], other=optimizers["critic"]
    ) as checkpoints:
        for batch in checkpoints.start().steps(torch.ones(6, 1, 1)):
            for name in ("critic", "net"):
                optimizers[name].zero_grad()
                parts["critic"](parts["net"](batch) if name == "net" else batch).sum().backward()
                optimizers[name].step()
            checkpoints.step()


@pytest.mark.parametrize("is_skipped", ["once", "always"])
def test_a_step_that_is_passed_over_is_not_told_of(tmp_path, is_skipped):
    """By a `GradScaler`, or because a norm is too large: its gradients are cleared, and nobody uses them."""
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with CheckpointManager(tmp_path, optimizer=optimizer) as checkpoints:
        for place in checkpoints.start().steps(range(6)):
            optimizer.zero_grad()
            weight.sum().backward()
            if is_skipped == "once" and place != 3:
                optimizer.step()
            checkpoints.step()


def test_a_closed_manager_leaves_no_hook_behind(tmp_path):
    """Nor does one that is dropped."""
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for is_closed in (True, False):
        manager = CheckpointManager(tmp_path, net, optimizer, config=CheckpointConfig(async_save="lazy"))
        manager.start()
        if is_closed:
            manager.close()
        del manager
        assert (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)) == (0, 0)


def test_an_iterator_that_is_used_up_is_told(tmp_path):
    """Empty epochs would look like trained ones."""
    progress = CheckpointManager(tmp_path, nn.Linear(1, 1)).start()
    batches = iter("abc")
    with pytest.raises(TrainingError, match="found an iterator that is used up"):
        for _ in progress.epochs(3):
            for _ in progress.steps(batches):
                pass
    assert (progress.epoch, progress.global_step) == (2, 3)


PROCESS = """
import sys, warnings
import torch
from torch import distributed, nn
from milepost import CheckpointManager

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    CheckpointManager(f"{folder}/runs", nn.Linear(1, 1)).start()
print([(each.filename == "<string>", str(each.message)) for each in told])
distributed.barrier()
"""


def test_a_second_process_of_a_training_is_told_that_it_has_a_run_of_its_own(tmp_path):
    """The first is not: one process may save for all."""
    command = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    first, second = (process.communicate(timeout=120)[0] for process in processes)
    assert first == "[]\n"
    assert second.startswith("[(True, 'this is process 1 of 2, and saves a run of its own;")
