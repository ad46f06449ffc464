"""Objects with a state of their own, through a checkpoint file and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from milepost.checkpoint.loading import open_checkpoint
from milepost.checkpoint.saving import store
from milepost.errors import LoadError, NothingLoadedError, SettingTypeError, UnsupportedStateError
from milepost.state import objects
from milepost.state.snapshot import Snapshot
from milepost.storage.memory import MemoryStorage


def through_a_file(**things):
    """What a checkpoint of these objects holds of them, and where its tensors come from."""
    storage, snapshot = MemoryStorage(), Snapshot()
    for name, thing in things.items():
        objects.take(name, thing, snapshot)
    store(storage, "x.ckpt", snapshot, {})
    parameters = open_checkpoint(storage, "x.ckpt")
    return parameters.metadata["state"]["objects"], parameters.referred()


def restore(name, target, saved, fetch):
    prepared = objects.prepare(name, target, saved.get(name), fetch, "x.ckpt")
    prepared.apply()
    return prepared.report


def step_lr():
    return lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), 3)


class Holder:
    """An object whose state is whatever it is given."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_an_objects_state_comes_back_with_its_tensors():
    """Several objects stand in one checkpoint, each by its name."""
    saved, fetch = through_a_file(ema=Holder({"decay": (0.9, torch.ones(2))}), n=Holder(3))
    ema, n = Holder(), Holder()
    assert str(restore("ema", ema, saved, fetch)) == "ema (Holder): 1 loaded"
    restore("n", n, saved, fetch)
    assert ema.state["decay"][0] == 0.9
    assert torch.equal(ema.state["decay"][1], torch.ones(2))
    assert n.state == 3


def test_nothing_changes_before_it_is_applied():
    """Everything else of the training may still be refused."""
    saved, fetch = through_a_file(a=Holder(1))
    target = Holder(0)
    objects.prepare("a", target, saved["a"], fetch, "x.ckpt")
    assert target.state == 0


def test_the_state_of_another_class_is_refused():
    """A StepLR's numbers would go into a CosineAnnealingLR without a word."""
    saved, fetch = through_a_file(scheduler=step_lr())
    cosine = lr_scheduler.CosineAnnealingLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), 5)
    with pytest.raises(LoadError, match=r"into scheduler \(CosineAnnealingLR\): found the state of a StepLR"):
        restore("scheduler", cosine, saved, fetch)


def test_an_object_that_was_not_saved_is_named():
    """To start it afresh in silence would be no resume."""
    saved, fetch = through_a_file(a=Holder(1))
    with pytest.raises(NothingLoadedError, match=r"x\.ckpt into scheduler \(StepLR\): found no state of 'scheduler'"):
        restore("scheduler", step_lr(), saved, fetch)


class Picky(Holder):
    """An object that does not take what it is given."""

    def __init__(self, error):
        super().__init__(1)
        self.error = error

    def load_state_dict(self, state):
        raise self.error


@pytest.mark.parametrize("error", [KeyError("k"), RuntimeError("r"), ZeroDivisionError("z")], ids=repr)
def test_what_the_object_raises_names_the_object(error):
    """A KeyError from somewhere says nothing."""
    saved, fetch = through_a_file(mine=Picky(error))
    with pytest.raises(LoadError, match=rf"into mine \(Picky\): .*{type(error).__name__}") as caught:
        restore("mine", Picky(error), saved, fetch)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), torch.OutOfMemoryError()], ids=repr)
def test_what_is_not_about_the_state_stays_what_it_is(error):
    """No memory, or a user who stops it."""
    saved, fetch = through_a_file(mine=Picky(error))
    with pytest.raises(type(error)):
        restore("mine", Picky(error), saved, fetch)


@pytest.mark.parametrize(
    ("thing", "lacking"),
    [(object(), "state_dict and load_state_dict"), (type("Half", (), {"state_dict": dict})(), "load_state_dict")],
    ids=["neither", "half"],
)
def test_an_object_without_the_two_methods_is_refused_where_it_is_given(thing, lacking):
    """Not hours later, at the first save."""
    with pytest.raises(SettingTypeError, match=f"^mine: found a .* without {lacking}"):
        objects.check("mine", thing)
    objects.check("mine", Holder())


def test_what_cannot_be_stored_is_refused_with_its_path():
    """At the save, by the path inside the object's state."""
    with pytest.raises(UnsupportedStateError, match=r"^mine\.table\.0\.f: found a builtins\.function"):
        through_a_file(mine=Holder({"table": [{"f": step_lr}]}))


class Squares(IterableDataset):
    """A stream that knows where it stands, with a set in its state."""

    def __init__(self):
        self.next, self.seen = 0, set()

    def __iter__(self):
        while self.next < 20:
            self.next += 1
            self.seen.add(self.next)
            yield self.next**2
        self.next = 0

    def state_dict(self):
        return {"next": self.next, "seen": set(self.seen)}

    def load_state_dict(self, state):
        assert state["seen"] == set(range(1, state["next"] + 1))
        vars(self).update(state)


LOADERS = {
    "in order": lambda: StatefulDataLoader(range(20), batch_size=3),
    "shuffled": lambda: StatefulDataLoader(range(20), batch_size=3, shuffle=True),
    "own generator": lambda: StatefulDataLoader(range(20), batch_size=3, shuffle=True, generator=torch.Generator()),
    "stream": lambda: StatefulDataLoader(Squares(), batch_size=3),
    "stream, workers": lambda: StatefulDataLoader(Squares(), batch_size=3, num_workers=2),
    "shuffled, workers": lambda: StatefulDataLoader(range(20), batch_size=3, shuffle=True, num_workers=2),
}


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with torch 2.13
@pytest.mark.parametrize("kind", LOADERS)
def test_a_stateful_loader_goes_on_in_the_middle_of_an_epoch(kind):
    """The batches that were left come, in their order, and none of those that were done."""
    torch.manual_seed(1)
    loader = LOADERS[kind]()
    batches = iter(loader)
    done = [next(batches).tolist() for _ in range(3)]
    saved, fetch = through_a_file(loader=loader)
    left = [batch.tolist() for batch in batches]
    assert len(done + left) >= 7
    torch.manual_seed(2)
    fresh = LOADERS[kind]()
    restore("loader", fresh, saved, fetch)
    assert [batch.tolist() for batch in fresh] == left
