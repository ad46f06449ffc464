"""Save policies: due or not, from facts alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import SettingError, SettingTypeError
from milepost.policy.save import EveryEpochs, EverySeconds, EverySteps, Never, Progress, SaveEither


def at(global_step: int, now_seconds: float = 0.0) -> Progress:
    return Progress(epoch=1, step=global_step, global_step=global_step, now_seconds=now_seconds)


@pytest.mark.parametrize(
    ("policy", "progress", "last", "is_due"),
    [
        (EverySteps(1), at(1), at(0), True),
        (EverySteps(1), at(1), at(1), False),
        (EverySteps(3), at(2), at(0), False),
        (EverySteps(3), at(3), at(0), True),
        (EverySteps(3), at(9), at(0), True),
        (EverySteps(3), at(12), at(10), False),  # counted from the save, not from zero
        (EverySeconds(5), at(1, 104.9), at(0, 100), False),
        (EverySeconds(5), at(1, 105), at(0, 100), True),
        (EverySeconds(0.5), at(1, 100.5), at(0, 100), True),
        (Never(), at(10**9, 1e9), at(0, 0), False),
    ],
)
def test_a_save_is_due_once_its_interval_has_passed(policy, progress, last, is_due):
    """The interval runs from the last save, and its end belongs to it."""
    assert policy.is_due(progress, last) is is_due


@given(st.integers(1, 50), st.integers(0, 200))
def test_steps_save_at_even_distances(interval, steps):
    """A run saves at each multiple of the interval and nowhere else."""
    saved, last = [], at(0)
    for step in range(1, steps + 1):
        if EverySteps(interval).is_due(at(step), last):
            last = at(step)
            saved.append(step)
    assert saved == list(range(interval, steps + 1, interval))


@given(st.floats(0.1, 10), st.lists(st.floats(0.01, 5), max_size=100))
def test_seconds_save_at_the_first_step_after_each_interval(seconds, durations):
    """No save comes early, and none that was due is left out."""
    last, now = at(0, 0.0), 0.0
    for step, duration in enumerate(durations, 1):
        now += duration
        is_due = EverySeconds(seconds).is_due(at(step, now), last)
        assert is_due == (now - last.now_seconds >= seconds)
        last = at(step, now) if is_due else last
        assert now - last.now_seconds < seconds


def saved_at(policy, epochs: int, steps_per_epoch: int) -> list[tuple[int, int]]:
    """Epoch and step of each save of a training."""
    saved, last = [], Progress(0, 0, 0, 0.0)
    for done in range(epochs * steps_per_epoch):
        epoch, step = divmod(done, steps_per_epoch)
        progress = Progress(epoch + 1, step + 1, done + 1, 0.0, is_epoch_end=step + 1 == steps_per_epoch)
        if policy.is_due(progress, last):
            last = progress
            saved.append((progress.epoch, progress.step))
    return saved


@pytest.mark.parametrize(
    ("policy", "saved"),
    [
        (EveryEpochs(), [(1, 5), (2, 5), (3, 5), (4, 5)]),
        (EveryEpochs(2), [(2, 5), (4, 5)]),
        (EveryEpochs(5), []),
        (EverySteps(3) | EveryEpochs(), [(1, 3), (1, 5), (2, 3), (2, 5), (3, 3), (3, 5), (4, 3), (4, 5)]),
        (EveryEpochs(2) | EverySteps(9), [(2, 4), (2, 5), (4, 4), (4, 5)]),
        (Never() | EveryEpochs(4) | EveryEpochs(3), [(3, 5), (4, 5)]),
    ],
)
def test_epochs_save_at_their_ends(policy, saved):
    """A save ends each epoch whose number is a multiple; beside another policy both have their saves."""
    assert saved_at(policy, epochs=4, steps_per_epoch=5) == saved


class OwnPolicy:
    """A policy of a user's own, which inherits nothing."""

    def is_due(self, progress: Progress, last: Progress) -> bool:
        return progress.step == 2


def test_a_policy_of_ones_own_composes_too():
    """On either side of the bar."""
    assert saved_at(OwnPolicy() | EveryEpochs(), epochs=1, steps_per_epoch=3) == [(1, 2), (1, 3)]
    assert saved_at(EveryEpochs() | OwnPolicy(), epochs=1, steps_per_epoch=3) == [(1, 2), (1, 3)]
    assert EverySteps(1) | Never() == SaveEither(EverySteps(1), Never())


@pytest.mark.parametrize("other", [None, 1, "steps", EverySteps, object()])
def test_only_policies_compose(other):
    """Anything else is refused where it is given, also a policy's class."""
    with pytest.raises(SettingTypeError, match="^save: "):
        EverySteps(1) | other


@pytest.mark.parametrize("policy", [EverySteps, EverySeconds, EveryEpochs])
@pytest.mark.parametrize("number", [0, -1, float("nan"), True, "1", None])
def test_an_interval_is_above_zero(policy, number):
    """An interval that means nothing is refused."""
    with pytest.raises(SettingError, match="above zero"):
        policy(number)
