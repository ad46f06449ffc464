"""The loops of a training: what is counted, what is skipped, and when an epoch is over."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from milepost.config import CheckpointConfig
from milepost.errors import LoadError, SettingError, TrainingError
from milepost.manager import CheckpointManager
from milepost.policy.save import EveryEpochs
from milepost.progress import TrainingProgress


class Counted(Dataset):
    """Numbers that remember that they were asked for."""

    def __init__(self, length=12):
        self.length = length
        self.asked = []

    def __len__(self):
        return self.length

    def __getitem__(self, place):
        self.asked.append(place)
        return torch.tensor(float(place))


def run(folder, loader, *, epochs=2, stop=None, resume="auto", **settings):
    """A training without a network; returns (epoch, step, global step, batch) of each step, and ends after `stop`."""
    seen = []
    with CheckpointManager(folder, nn.Linear(1, 1), config=CheckpointConfig(**settings)) as checkpoints:
        progress = checkpoints.resume(resume)
        for epoch in progress.epochs(epochs):
            for batch in progress.steps(loader):
                checkpoints.step()
                seen.append((epoch, progress.step, progress.global_step, torch.as_tensor(batch).tolist()))
                if progress.global_step == stop:
                    checkpoints.close()  # as a kill does: nothing more is saved
                    return seen
    return seen


def test_without_a_checkpoint_every_epoch_and_batch_comes_once():
    """Counting is all that is added to two plain loops."""
    progress = TrainingProgress()
    seen = [(e, b, progress.step, progress.global_step) for e in progress.epochs(2) for b in progress.steps("ab")]
    assert seen == [(1, "a", 1, 1), (1, "b", 2, 2), (2, "a", 1, 3), (2, "b", 2, 4)]


def test_more_epochs_go_on_after_the_last():
    """A second loop does not repeat what the first has done."""
    progress = TrainingProgress()
    assert [e for last in (2, 3) for e in progress.epochs(last) for _ in progress.steps("a")] == [1, 2, 3]


def test_steps_without_epochs_count_an_epoch_for_each_pass():
    """A loop that thinks in steps needs no loop over epochs."""
    progress = TrainingProgress()
    seen = [(progress.epoch, progress.step) for _ in range(2) for _ in progress.steps("ab")]
    assert seen == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize("stop", range(1, 8))
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_rest_of_the_batches_comes_in_the_same_order(tmp_path, stop, shuffle):
    """Also where the cut falls on the end of an epoch, and where checkpoints are rare."""

    def loader():
        return DataLoader(Counted(), batch_size=3, shuffle=shuffle)

    torch.manual_seed(3)
    straight = run(tmp_path / "straight", loader())
    torch.manual_seed(3)
    first = run(tmp_path / "cut", loader(), stop=stop)
    torch.manual_seed(77)
    rest = run(tmp_path / "cut", loader(), resume="must" if stop > 1 and stop != 4 else "auto")
    assert straight == first[: rest[0][2] - 1] + rest
    assert rest[0][2] >= stop if stop == 4 else rest[0][2] == stop + 1


def test_what_was_done_is_not_loaded_again_where_the_sampler_gives_indices(tmp_path):
    """Skipping a million samples must not cost reading them."""
    run(tmp_path, DataLoader(Counted(), batch_size=3), stop=3)
    data = Counted()
    run(tmp_path, DataLoader(data, batch_size=3), epochs=1)
    assert data.asked == [9, 10, 11]


def test_any_other_source_is_drawn_and_dropped(tmp_path):
    """A list or a generator cannot be skipped in."""
    run(tmp_path, [1.0, 2.0, 3.0], stop=2, epochs=1)
    assert [each[3] for each in run(tmp_path, [1.0, 2.0, 3.0], epochs=1)] == [3.0]


def test_a_loader_that_knows_its_place_is_put_there(tmp_path):
    """`state_dict` and `load_state_dict`, as torchdata's StatefulDataLoader has them."""

    class Stateful:
        def __init__(self):
            self.place = 0
            self.drawn = []

        def __iter__(self):
            while self.place < 5:
                self.place += 1
                self.drawn.append(self.place)
                yield float(self.place)
            self.place = 0

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"]

    run(tmp_path, Stateful(), stop=3, epochs=1)
    loader = Stateful()
    assert [each[:3] for each in run(tmp_path, loader, epochs=1)] == [(1, 4, 4), (1, 5, 5)]
    assert loader.drawn == [4, 5]


def test_an_epoch_s_last_step_is_saved_when_its_body_is_done(tmp_path):
    """What stands after the inner loop belongs to the epoch, so it is in the checkpoint, and is not done again."""
    net = nn.Linear(1, 1)
    done = []
    for epochs in (1, 2):
        with CheckpointManager(tmp_path, net) as checkpoints:
            progress = checkpoints.resume()
            for epoch in progress.epochs(epochs):
                for _ in progress.steps("ab"):
                    checkpoints.step()
                with torch.no_grad():
                    net.weight.fill_(10.0 * epoch)
                done.append(epoch)
    assert done == [1, 2]
    twin = nn.Linear(1, 1)
    CheckpointManager(tmp_path, twin).restore(tmp_path / "CKP-1_2.ckpt")
    assert twin.weight.item() == 10.0


def test_an_epoch_that_was_cut_in_its_last_lines_does_them_again(tmp_path):
    """Without a length nobody knows which step is the last, so it is saved before the epoch's end."""

    def endless(length):
        yield from range(length)

    class Stream:
        def __iter__(self):
            return endless(2)

    ends = []
    for cut in (True, False):
        with CheckpointManager(tmp_path, nn.Linear(1, 1)) as checkpoints:
            progress = checkpoints.resume()
            for epoch in progress.epochs(1):
                for _ in progress.steps(Stream()):
                    checkpoints.step()
                if cut:
                    checkpoints.close()
                    break
                ends.append(epoch)
    assert ends == [1]


def test_a_loop_of_one_s_own_is_counted_by_its_steps(tmp_path):
    """`step` counts where `progress.steps` does not."""
    with CheckpointManager(tmp_path, nn.Linear(1, 1)) as checkpoints:
        checkpoints.start()
        for _ in range(3):
            checkpoints.step(loss=1.0)
    assert checkpoints.latest().name == "CKP-1_3.ckpt"


def plain(folder, *, has_epochs, stop=None, skips=False):
    """A training that draws its batches by itself; returns those that were trained with."""
    seen = []
    with CheckpointManager(folder, nn.Linear(1, 1)) as checkpoints:
        progress = checkpoints.resume()
        done = progress.step
        for _ in progress.epochs(1) if has_epochs else range(1):
            for place, batch in enumerate("abc"):
                if skips and place < done:
                    continue
                checkpoints.step()
                seen.append(batch)
                if place + 1 == stop:
                    checkpoints.close()
                    return "".join(seen)
    return "".join(seen)


@pytest.mark.parametrize("has_epochs", [False, True])
def test_batches_that_were_drawn_by_progress_are_not_trained_with_again_in_silence(tmp_path, has_epochs):
    """A plain loop after the resume would begin the epoch anew: its first step is refused, and nothing is saved."""
    run(tmp_path, [1, 2, 3], stop=2)
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"those that follow the first 2 of epoch 1.*in progress\.steps"):
            plain(tmp_path, has_epochs=has_epochs)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["CKP-1_1.ckpt", "CKP-1_2.ckpt"]


@pytest.mark.parametrize("skips", [False, True])
def test_epochs_whose_batches_are_drawn_elsewhere_are_told_that_these_have_to_be_skipped(tmp_path, skips):
    """Once; whether they are, nobody else can know."""
    assert plain(tmp_path, has_epochs=True, stop=2) == "ab"
    with pytest.warns(UserWarning, match="2 steps of epoch 1 are done, and done again, unless") as told:
        assert plain(tmp_path, has_epochs=True, skips=skips) == ("c" if skips else "abc")
    assert [each.filename for each in told] == [__file__]


def test_an_epoch_that_draws_elsewhere_after_one_that_did_not_may_go_on(tmp_path):
    """A warm-up through ``steps`` says nothing of the order of what follows."""

    def train(stop=None):
        with CheckpointManager(tmp_path, nn.Linear(1, 1)) as checkpoints:
            progress = checkpoints.resume()
            for epoch in progress.epochs(2):
                if epoch == 1:
                    for _ in progress.steps(range(2)):
                        checkpoints.step()
                    continue
                for place in range(progress.step, 4):
                    checkpoints.step()
                    if place + 1 == stop:
                        checkpoints.close()
                        return
        assert checkpoints.latest().name == "CKP-2_4.ckpt"

    train(stop=2)
    with pytest.warns(UserWarning, match="2 steps of epoch 2 are done"):
        train()


def test_epochs_that_are_counted_by_progress_may_draw_by_themselves(tmp_path):
    """At an epoch's start nothing of it has been drawn yet."""
    for epochs in (1, 2):
        with CheckpointManager(tmp_path, nn.Linear(1, 1), config=CheckpointConfig(save=EveryEpochs())) as checkpoints:
            progress = checkpoints.resume()
            for _ in progress.epochs(epochs):
                for _ in range(3):
                    checkpoints.step()
    assert checkpoints.latest().name == "CKP-2_3.ckpt"


def test_where_a_training_stands_can_be_printed(tmp_path):
    """After a resume with the checkpoint's place."""
    assert repr(TrainingProgress()) == "TrainingProgress(epoch=0, step=0, global_step=0)"
    run(tmp_path, [1, 2, 3], stop=2)
    with CheckpointManager(tmp_path, nn.Linear(1, 1)) as checkpoints:
        where = str(tmp_path / "CKP-1_2.ckpt")
        assert repr(checkpoints.resume()) == f"TrainingProgress(epoch=1, step=2, global_step=2, where={where!r})"


def test_another_data_set_is_refused(tmp_path):
    """Its batches would be others; and where no length tells, too few are found out."""
    run(tmp_path, [1, 2, 3], stop=2)
    with pytest.raises(LoadError, match="found 2 batches in the data set; expected 3"):
        run(tmp_path, [1, 2])
    with pytest.raises(TrainingError, match="found 1 batches; expected more than the 2"):
        run(tmp_path, iter([1]))
    with pytest.raises(SettingError, match="^loader: found none"):
        next(TrainingProgress().steps())


def test_batches_begun_anew_are_a_new_epoch_also_after_a_break():
    """Without a loop over epochs: else the steps of an epoch would be more than its batches, and no resume fit."""
    progress = TrainingProgress()
    for _ in range(2):
        for batch in progress.steps(["a", "b", "c"]):
            if batch == "b":
                break
    assert (progress.epoch, progress.step, progress.global_step) == (2, 2, 4)
