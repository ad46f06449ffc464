"""Keep policies: what has expired, from records alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.catalog.names import BREAKPOINT, CheckpointName
from milepost.catalog.records import Record
from milepost.errors import SettingError
from milepost.policy.keep import KeepAll, KeepLast, KeepOnePer


def record(step: int, created: float = 0.0, *, suffix: str = "", is_foreign: bool = False) -> Record:
    name = CheckpointName("a", run=1, epoch=1, step=step, suffix=suffix)
    return Record(name, created, nbytes=1, global_step=None if is_foreign else step, metrics={})


def steps(records: list[Record]) -> list[int]:
    return [each.name.step for each in records]


POLICIES = st.one_of(
    st.just(KeepAll()),
    st.builds(KeepLast, st.integers(1, 8)),
    st.builds(KeepOnePer, st.one_of(st.integers(1, 5), st.floats(0.01, 5))),
)
# Any order of times: a wall clock may be set back in the middle of a run.
RECORDS = st.lists(
    st.tuples(st.floats(0, 3600), st.sampled_from(["", "", "", BREAKPOINT]), st.sampled_from([False, False, True]))
).map(
    lambda facts: [
        record(step, created, suffix=suffix, is_foreign=is_foreign)
        for step, (created, suffix, is_foreign) in enumerate(facts, 1)
    ]
)


@given(POLICIES, RECORDS)
def test_some_never_expire(policy, records):
    """The newest, a breakpoint and a file of another program stay under every policy."""
    expired = policy.expired(records)
    assert records[-1:] != expired[-1:] or not records
    assert all(each.global_step is not None and not each.name.suffix for each in expired)


@given(POLICIES, RECORDS)
def test_what_expired_is_in_order_and_settled(policy, records):
    """The answer keeps the order, and once it is acted on nothing more expires."""
    expired = policy.expired(records)
    rest = [each for each in records if each not in expired]
    assert [each for each in records if each in expired] == expired
    assert policy.expired(rest) == []


@pytest.mark.parametrize(
    ("policy", "records", "expired"),
    [
        (KeepAll(), [record(step) for step in range(1, 100)], []),
        (KeepLast(2), [], []),
        (KeepLast(2), [record(1)], []),
        (KeepLast(2), [record(1), record(2)], []),
        (KeepLast(2), [record(1), record(2), record(3), record(4)], [1, 2]),
        (KeepLast(1), [record(1), record(2, suffix=BREAKPOINT), record(3)], [1]),
        (KeepLast(1), [record(1, is_foreign=True), record(2), record(3)], [2]),
        (KeepLast(1), [record(1), record(2, suffix=BREAKPOINT)], []),
        (KeepOnePer(1), [], []),
        (KeepOnePer(1), [record(1, 0), record(2, 20), record(3, 40)], [1, 2]),
        (KeepOnePer(1), [record(1, 40), record(2, 60)], []),
        (KeepOnePer(1), [record(1, 0), record(2, 20), record(3, 60)], []),  # a past window is left as it is
        (KeepOnePer(1), [record(1, 59.9), record(2, 60), record(3, 119.9)], [2]),
        (KeepOnePer(0.5), [record(1, 10), record(2, 20), record(3, 30), record(4, 50)], [3]),
        (KeepOnePer(10**308), [record(1, 0), record(2, 1e9)], [1]),
        (KeepOnePer(5e-324), [record(1, 1e9), record(2, 1e9)], [1]),
    ],
)
def test_expired(policy, records, expired):
    """The rules, case by case."""
    assert steps(policy.expired(records)) == expired


@given(st.integers(1, 8), st.integers(0, 30))
def test_keep_last_leaves_at_most_its_count(count, saved):
    """Of the ordinary checkpoints the newest stay, as many as were asked for."""
    records = [record(step) for step in range(1, saved + 1)]
    expired = KeepLast(count).expired(records)
    assert steps(records)[len(expired) :] == steps(records)[-count:]
    assert steps(expired) == steps(records)[:-count]


@given(st.sampled_from([0.5, 1, 2, 10]), st.lists(st.floats(0, 90), min_size=1, max_size=80))
def test_each_past_window_holds_the_last_checkpoint_saved_in_it(minutes, pauses):
    """A run that applies the rule after each save leaves one checkpoint, the last, per window with a save."""
    policy = KeepOnePer(minutes)
    kept: list[Record] = []
    last_of_window: dict[float, Record] = {}
    now = 1_790_000_000.0
    for step, pause in enumerate(pauses, 1):
        now += pause
        saved = record(step, now)
        window = now // (60 * minutes)
        last_of_window[window] = saved
        expired = policy.expired([*kept, saved])
        assert all(each.created // (60 * minutes) == window for each in expired)
        kept = [each for each in [*kept, saved] if each not in expired]
        assert kept == list(last_of_window.values())


def test_the_worked_example_holds():
    """A save each 20 seconds under one minute leaves what the docstring's table says."""
    kept: list[Record] = []
    left = []
    for step in range(7):
        kept.append(record(step, 36_000 + 20 * step))
        expired = KeepOnePer(1).expired(kept)
        kept = [each for each in kept if each not in expired]
        left.append([f"10:{each.name.step // 3:02}:{each.name.step % 3 * 20:02}" for each in kept])
    rows = [
        line.split(maxsplit=1) for line in (KeepOnePer.__doc__ or "").splitlines() if line.strip().startswith("10:")
    ]
    assert [row[1].split(", ") for row in rows] == left


@pytest.mark.parametrize("policy", [KeepLast, KeepOnePer])
@pytest.mark.parametrize("number", [0, -1, float("nan")])
def test_a_number_is_above_zero(policy, number):
    """A policy that would let the newest expire is refused."""
    with pytest.raises(SettingError, match="above zero"):
        policy(number)
