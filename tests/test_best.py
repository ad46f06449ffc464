"""The best checkpoint: found, kept, named, and remembered; and what is reported after a save."""

from __future__ import annotations

import errno
import math
import os

import pytest
import torch
from torch import nn

from milepost import CheckpointConfig, load_checkpoint
from milepost.errors import SaveError, SettingError
from milepost.manager import CheckpointManager
from milepost.policy.keep import KeepEvery, KeepLast
from milepost.policy.save import EveryEpochs, EverySteps


def manager_of(folder, net=None, **settings):
    return CheckpointManager(folder, net or nn.Linear(1, 1), prefix="net", config=CheckpointConfig(**settings))


def run(folder, accuracies, *, resume=False, steps=2, late=False, **settings):
    """An epoch for each accuracy, which is reported at its end; with `late` when everything is saved already."""
    net = nn.Linear(1, 1)
    with manager_of(folder, net, monitor="accuracy", **settings) as checkpoints:
        progress = checkpoints.resume("must") if resume else checkpoints.start()
        for epoch in progress.epochs(len(accuracies)):
            with torch.no_grad():
                net.weight.fill_(float(epoch))
            for _ in progress.steps(range(steps)):
                checkpoints.step(loss=1.0)
            if late:
                checkpoints.save()
            checkpoints.report(accuracy=accuracies[epoch - 1])
    return checkpoints


def refuse(*_):
    """What a disk that has failed says."""
    raise OSError(errno.EIO, "planned")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".ckpt" and "best" not in path.name)


@pytest.mark.parametrize("late", [False, True], ids=["before the save", "after the save"])
@pytest.mark.parametrize(
    ("accuracies", "mode", "best"),
    [
        ([0.1, 0.5, 0.3], "max", 2),
        ([0.1, 0.5, 0.3], "min", 1),
        ([0.5, 0.5, 0.5], "max", 1),
        ([math.nan, 0.2, math.nan], "max", 2),
        ([0.2, math.inf, 0.3], "max", 2),
    ],
    ids=str,
)
def test_the_best_survives_every_retention_rule(tmp_path, accuracies, mode, best, late):
    """Beside the newest; a tie keeps the earlier, and NaN never wins."""
    checkpoints = run(tmp_path, accuracies, mode=mode, late=late, keep_checkpoint_max=1)
    assert names(tmp_path) == sorted({f"net-{best}_2.ckpt", "net-3_2.ckpt"})
    assert checkpoints.best() == tmp_path / f"net-{best}_2.ckpt"
    twin = nn.Linear(1, 1)
    for path in (checkpoints.best(), tmp_path / "net-best.ckpt"):
        load_checkpoint(path, net=twin)
        assert twin.weight.item() == best


def test_the_k_best_are_kept(tmp_path):
    """And nothing else but the newest."""
    run(tmp_path, [0.3, 0.9, 0.1, 0.5, 0.2], keep_best=2, keep_checkpoint_max=1)
    assert names(tmp_path) == ["net-2_2.ckpt", "net-4_2.ckpt", "net-5_2.ckpt"]


def test_the_best_file_takes_no_room_of_its_own(tmp_path):
    """It is another name for the same content, where the file system has that."""
    checkpoints = run(tmp_path, [0.1, 0.5, 0.3])
    assert os.path.samefile(tmp_path / "net-best.ckpt", checkpoints.best())


@pytest.mark.parametrize("late", [False, True])
def test_a_restart_remembers_the_best(tmp_path, late):
    """Also a value that came when the file was written already."""
    run(tmp_path, [0.1, 0.9, 0.3], late=late, keep_checkpoint_max=1)
    checkpoints = run(tmp_path, [0.1, 0.9, 0.3, 0.4, 0.5], resume=True, late=late, keep_checkpoint_max=1)
    assert checkpoints.best() == tmp_path / "net-2_2.ckpt"
    assert names(tmp_path) == ["net-2_2.ckpt", "net-5_2.ckpt"]
    history = [(each.epoch, each.metrics["accuracy"]) for each in checkpoints.progress.history]
    assert history == [(1, 0.1), (2, 0.9), (3, 0.3), (4, 0.4), (5, 0.5)]


def test_a_moment_that_is_the_best_is_saved_although_no_save_is_due(tmp_path):
    """The best model would otherwise be lost between two checkpoints."""
    checkpoints = run(tmp_path, [0.1, 0.9, 0.3], save_checkpoint_steps=1000)
    assert names(tmp_path) == ["net-1_2.ckpt", "net-2_2.ckpt", "net-3_2.ckpt"]
    assert load_checkpoint(checkpoints.best()).metadata["metrics"] == {"loss": 1.0, "accuracy": 0.9}


def test_a_best_moment_within_an_epoch_is_saved_too(tmp_path):
    """With the figure that made it the best."""
    with manager_of(tmp_path, monitor="accuracy", save_checkpoint_steps=1000) as checkpoints:
        progress = checkpoints.start()
        for _ in progress.epochs(1):
            for step in progress.steps(range(5)):
                checkpoints.step()
                if step in (1, 2, 3):
                    checkpoints.report(accuracy=[0.5, 0.9, 0.1][step - 1])
    assert names(tmp_path) == ["net-1_2.ckpt", "net-1_3.ckpt", "net-1_5.ckpt"]
    assert load_checkpoint(checkpoints.best()).metadata["metrics"] == {"accuracy": 0.9}


def test_everything_that_is_kept_can_be_listed(tmp_path):
    """With what was measured, and as paths."""
    checkpoints = run(tmp_path, [0.1, 0.9])
    assert [(each.epoch, each.step, each.metrics) for each in checkpoints.all()] == [
        (1, 1, {"loss": 1.0}),
        (1, 2, {"loss": 1.0, "accuracy": 0.1}),
        (2, 1, {"loss": 1.0}),
        (2, 2, {"loss": 1.0, "accuracy": 0.9}),
    ]
    assert load_checkpoint(checkpoints.all()[0]).metadata["step"] == 1
    assert checkpoints.all()[-1].path == checkpoints.latest()


def test_policies_compose(tmp_path):
    """Every two steps and at epochs' ends; the newest, and one of each four steps for good."""
    with manager_of(tmp_path, save=EverySteps(2) | EveryEpochs(), keep=KeepLast(1) | KeepEvery(4)) as checkpoints:
        progress = checkpoints.start()
        saved = set()
        for _ in progress.epochs(3):
            for _ in progress.steps(range(3)):
                checkpoints.step()
                saved |= set(names(tmp_path))
    saved |= set(names(tmp_path))
    assert sorted(saved) == [f"net-{name}.ckpt" for name in ("1_2", "1_3", "2_2", "2_3", "3_2", "3_3")]
    assert names(tmp_path) == ["net-2_2.ckpt", "net-3_2.ckpt", "net-3_3.ckpt"]


def test_without_a_monitor_there_is_no_best(tmp_path):
    """The error names the setting."""
    with pytest.raises(SettingError, match="CheckpointConfig.monitor"):
        manager_of(tmp_path).best()


def test_a_monitor_that_is_written_wrongly_is_told_of(tmp_path):
    """It would lose the best: once, when an epoch has ended, with the name that was meant."""

    def train():
        with manager_of(tmp_path, monitor="acuracy") as checkpoints:
            progress = checkpoints.start()
            for epoch in progress.epochs(3):
                for _ in progress.steps(range(2)):
                    checkpoints.step(loss=1.0)
                checkpoints.report(accuracy=0.1 * epoch)

    with pytest.warns(UserWarning, match="'acuracy' was not reported so far, and 'accuracy' was: no") as told:
        train()
    assert [each.filename for each in told] == [__file__]


@pytest.mark.parametrize("figures", [{}, {"loss": 1.0, "recall": 0.5}])
def test_a_monitor_without_any_report_is_told_of_at_the_end(tmp_path, figures):
    """Until then it may still come."""
    checkpoints = manager_of(tmp_path, monitor="accuracy")
    progress = checkpoints.start()
    for _ in progress.epochs(2):
        for _ in progress.steps(range(2)):
            checkpoints.step(**figures)
    others = ", and 'loss', 'recall' were" if figures else ""
    with pytest.warns(UserWarning, match=f"'accuracy' was not reported so far{others}: no") as told:
        checkpoints.close()
    checkpoints.close()
    assert [each.filename for each in told] == [__file__]


@pytest.mark.parametrize(
    "way",
    ["with each step", "at times", "before the resume", "by another manager", "left early", "nothing was trained"],
)
def test_a_monitor_that_is_reported_or_may_be_yet_is_not_told_of(tmp_path, way):
    """However rarely, and by whom; and not where the training did not come to its end."""
    if way == "before the resume":
        run(tmp_path, [0.5])
    with manager_of(tmp_path, monitor="accuracy", save_checkpoint_steps=3, async_save=True) as checkpoints:
        progress = checkpoints.resume()
        other = manager_of(tmp_path / "other")
        other.start()
        other.follow(progress)
        for epoch in progress.epochs(2 if way != "nothing was trained" else 0):
            for step in progress.steps(range(2)):
                checkpoints.step(**({"accuracy": 0.5} if way == "with each step" and step == 0 else {}))
                other.step()
            checkpoints.report(loss=1.0)
            if way == "at times" and epoch == 2:
                checkpoints.report(accuracy=0.5)
            if way == "by another manager":
                other.report(accuracy=0.5)
            if way == "left early":
                break
        other.close()


def test_a_metric_that_is_another_s_namesake_is_not_taken_for_a_typing_error(tmp_path):
    """There are both, one of them more often."""
    with manager_of(tmp_path, monitor="val_accuracy") as checkpoints:
        progress = checkpoints.start()
        for epoch in progress.epochs(2):
            for _ in progress.steps(range(2)):
                checkpoints.step(accuracy=0.5, val_accuracy1=0.5)
            if epoch == 2:
                checkpoints.report(val_accuracy=0.5)


def test_a_second_run_has_figures_of_its_own(tmp_path):
    """What was reported in the first says nothing of it."""
    checkpoints = manager_of(tmp_path, monitor="accuracy")
    for name in ("accuracy", "acuracy"):
        for _ in checkpoints.start().steps(range(2)):
            checkpoints.step(**{name: 0.5})
    with pytest.warns(UserWarning, match="'accuracy' was not reported so far, and 'acuracy' was"):
        checkpoints.close()


def test_a_monitor_that_is_not_reported_hides_no_failed_save(tmp_path, monkeypatch):
    """Also where warnings are errors: what was not saved goes before."""
    checkpoints = manager_of(tmp_path, monitor="accuracy", async_save=True)
    progress = checkpoints.start()
    for _ in progress.epochs(1):
        for _ in progress.steps(range(2)):
            checkpoints.step()
        checkpoints.wait()
        monkeypatch.setattr(os, "fsync", refuse)
        checkpoints.step()
    with pytest.raises(SaveError):
        checkpoints.close()


def test_a_restore_changes_the_state_and_not_the_place(tmp_path):
    """To evaluate the best network, or to go back after a divergence."""
    checkpoints = run(tmp_path, [0.9, 0.5], keep_checkpoint_max=10)
    net = nn.Linear(1, 1)
    again = manager_of(tmp_path, net, monitor="accuracy")
    again.resume("must")
    (report,) = again.restore(again.best())
    assert (net.weight.item(), report.loaded) == (1.0, ("weight", "bias"))
    assert again.progress.global_step == 4
    assert checkpoints.best() == again.best()
    again.close()


def test_a_step_in_the_middle_of_an_epoch_that_is_the_best_is_saved_when_it_is_reported(tmp_path):
    """Also between two saves that are due."""
    with manager_of(tmp_path, monitor="accuracy", save_checkpoint_steps=100) as checkpoints:
        for step in checkpoints.start().steps(range(4)):
            checkpoints.step()
            checkpoints.report(accuracy=[0.1, 0.5, 0.3, 0.2][step])
    assert checkpoints.best() == tmp_path / "net-1_2.ckpt"
