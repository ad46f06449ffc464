"""Save policies: due or not, from facts alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.errors import SettingError
from milepost.policy.save import EverySeconds, EverySteps, Never, Progress


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


@pytest.mark.parametrize("policy", [EverySteps, EverySeconds])
@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_an_interval_is_above_zero(policy, number):
    """An interval that means nothing is refused."""
    with pytest.raises(SettingError, match="above zero"):
        policy(number)
