"""Keep policies: what has expired, from records alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.catalog.names import BREAKPOINT, CheckpointName
from milepost.catalog.records import Record
from milepost.errors import SettingError, SettingTypeError
from milepost.policy.keep import KeepAll, KeepBest, KeepEither, KeepEvery, KeepLast, KeepOnePer, KeepPolicy, expired


def record(step: int, created: float = 0.0, *, suffix: str = "", is_foreign: bool = False, **metrics: float) -> Record:
    name = CheckpointName("a", run=1, epoch=1, step=step, suffix=suffix)
    return Record(name, created, nbytes=1, global_step=None if is_foreign else step, metrics=metrics)


def measured(*values: float | None) -> list[Record]:
    """Checkpoints of the steps 1, 2, 3 ... with an accuracy each, where there is one."""
    return [record(step, **({} if value is None else {"acc": value})) for step, value in enumerate(values, 1)]


def steps(records: list[Record]) -> list[int]:
    return [each.name.step for each in records]


SINGLE = st.one_of(
    st.just(KeepAll()),
    st.builds(KeepLast, st.integers(1, 8)),
    st.builds(KeepOnePer, st.one_of(st.integers(1, 5), st.floats(0.01, 5))),
    st.builds(KeepEvery, st.integers(1, 8)),
    st.builds(KeepBest, st.sampled_from(["acc", "loss"]), st.sampled_from(["max", "min"]), st.integers(1, 4)),
)
POLICIES = st.recursive(SINGLE, lambda inner: st.builds(KeepEither, inner, inner), max_leaves=4)
VALUES = st.one_of(st.none(), st.sampled_from([0.1, 0.5, 0.9, math.nan, math.inf, -math.inf]), st.floats())
KEEP_BEST = st.builds(KeepBest, st.just("acc"), st.sampled_from(["max", "min"]), st.integers(1, 4))
# Any order of times: a wall clock may be set back in the middle of a run.
RECORDS = st.lists(
    st.tuples(
        st.floats(0, 3600), st.sampled_from(["", "", "", BREAKPOINT]), st.sampled_from([False, False, True]), VALUES
    )
).map(
    lambda facts: [
        record(step, created, suffix=suffix, is_foreign=is_foreign, **({} if acc is None else {"acc": acc}))
        for step, (created, suffix, is_foreign, acc) in enumerate(facts, 1)
    ]
)


@given(POLICIES, RECORDS)
def test_some_never_expire(policy, records):
    """The newest, a breakpoint and a file of another program stay under every policy."""
    gone = policy.expired(records)
    assert records[-1:] != gone[-1:] or not records
    assert all(each.global_step is not None and not each.name.suffix for each in gone)
    assert expired(policy, records) == gone


class KeepNothing:
    """A policy of a user's own, written carelessly."""

    def expired(self, records: list[Record]) -> list[Record]:
        return list(records)


@given(RECORDS)
def test_a_careless_policy_costs_no_more_than_the_ordinary_checkpoints(records):
    """Whatever a policy says, the newest ordinary checkpoint, breakpoints and foreign files stay."""
    ordinary = [each for each in records if each.may_expire]
    assert expired(KeepNothing(), records) == ordinary[:-1]


@given(POLICIES, POLICIES, RECORDS)
def test_a_union_keeps_what_either_keeps(first, second, records):
    """No more, no less, and whichever is named first."""
    gone = [each for each in first.expired(records) if each in second.expired(records)]
    assert (first | second).expired(records) == (second | first).expired(records) == gone


@given(KEEP_BEST, RECORDS)
def test_the_best_are_kept(policy, records):
    """So many, each at least as good as any other, best first; what was not measured, or not to a number, is none."""
    best = [each.metrics["acc"] for each in policy.best(records)]
    others = [each.metrics["acc"] for each in records if "acc" in each.metrics and each not in policy.best(records)]
    others = [value for value in others if not math.isnan(value)]
    assert not any(math.isnan(value) for value in best)
    assert best == sorted(best, reverse=policy.mode == "max")
    assert len(best) == min(policy.count, len(best) + len(others))
    assert all((value <= best[-1]) if policy.mode == "max" else (value >= best[-1]) for value in others)
    assert not any(each in policy.best(records) for each in (policy | KeepLast(1)).expired(records))


@pytest.mark.parametrize(
    ("policy", "records", "best"),
    [
        (KeepBest("acc"), [], []),
        (KeepBest("acc"), measured(None, None), []),
        (KeepBest("acc"), measured(0.1, 0.9, 0.5), [2]),
        (KeepBest("acc", "min"), measured(0.1, 0.9, 0.5), [1]),
        (KeepBest("acc", count=2), measured(0.1, 0.9, 0.5), [2, 3]),
        (KeepBest("acc", count=5), measured(0.1, 0.9, 0.5), [2, 3, 1]),
        (KeepBest("acc"), measured(0.9, 0.9), [1]),
        (KeepBest("acc", "min"), measured(0.9, 0.9), [1]),
        (KeepBest("acc"), measured(None, math.nan, 0.5, math.nan), [3]),
        (KeepBest("acc", "min"), measured(math.nan, math.inf), [2]),
        (KeepBest("acc"), [record(1, acc=0.5), record(2, suffix=BREAKPOINT, acc=0.9)], [2]),
        (KeepBest("loss"), measured(0.9), []),
    ],
)
def test_best(policy, records, best):
    """The rule, case by case."""
    assert steps(policy.best(records)) == best


@given(POLICIES, RECORDS)
def test_what_expired_is_in_order_and_settled(policy, records):
    """The answer keeps the order, and once it is acted on nothing more expires."""
    gone = policy.expired(records)
    rest = [each for each in records if each not in gone]
    assert [each for each in records if each in gone] == gone
    assert policy.expired(rest) == []


@pytest.mark.parametrize(
    ("policy", "records", "gone"),
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
        (KeepEvery(10), [], []),
        (KeepEvery(10), [record(3), record(6), record(9)], [3, 6]),
        (KeepEvery(10), [record(step) for step in (3, 10, 11, 19, 25, 29)], [3, 11, 19]),
        (KeepEvery(1), [record(1), record(2), record(3)], []),
        (KeepEvery(10), [record(10, suffix=BREAKPOINT), record(11, is_foreign=True), record(12), record(13)], []),
        (KeepEvery(10) | KeepLast(2), [record(step) for step in (3, 10, 11, 18, 19)], [3, 11]),
        (KeepBest("acc"), measured(0.1, 0.9, 0.5, None, 0.2), [1, 3, 4]),
        (KeepBest("acc"), measured(None, None, None), [1, 2]),
        (KeepLast(2) | KeepBest("acc", count=2), measured(0.8, 0.9, 0.1, 0.2, 0.3), [3]),
        (KeepLast(1) | KeepAll(), measured(0.1, 0.2), []),
    ],
)
def test_expired(policy, records, gone):
    """The rules, case by case."""
    assert steps(policy.expired(records)) == gone


@given(st.integers(1, 8), st.integers(0, 30))
def test_keep_last_leaves_at_most_its_count(count, saved):
    """Of the ordinary checkpoints the newest stay, as many as were asked for."""
    records = [record(step) for step in range(1, saved + 1)]
    gone = KeepLast(count).expired(records)
    assert steps(records)[len(gone) :] == steps(records)[-count:]
    assert steps(gone) == steps(records)[:-count]


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
        gone = policy.expired([*kept, saved])
        assert all(each.created // (60 * minutes) == window for each in gone)
        kept = [each for each in [*kept, saved] if each not in gone]
        assert kept == list(last_of_window.values())


def test_the_worked_example_holds():
    """A save each 20 seconds under one minute leaves what the docstring's table says."""
    kept: list[Record] = []
    left = []
    for step in range(7):
        kept.append(record(step, 36_000 + 20 * step))
        gone = KeepOnePer(1).expired(kept)
        kept = [each for each in kept if each not in gone]
        left.append([f"10:{each.name.step // 3:02}:{each.name.step % 3 * 20:02}" for each in kept])
    rows = [
        line.split(maxsplit=1) for line in (KeepOnePer.__doc__ or "").splitlines() if line.strip().startswith("10:")
    ]
    assert [row[1].split(", ") for row in rows] == left


def run(policy: KeepPolicy, saves: list[int]) -> list[int]:
    """The steps that are left when each save is followed by the policy."""
    kept: list[Record] = []
    for step in saves:
        kept.append(record(step))
        gone = expired(policy, kept)
        kept = [each for each in kept if each not in gone]
    return steps(kept)


@given(st.integers(1, 20), st.integers(1, 3), st.sets(st.integers(1, 200), min_size=1).map(sorted))
def test_a_kept_milestone_is_kept_for_good(interval, count, saves):
    """A run leaves the first save of each full interval, whatever comes later, and the newest ones."""
    milestones = {step // interval: step for step in reversed(saves) if step >= interval}
    assert run(KeepEvery(interval) | KeepLast(count), saves) == sorted({*milestones.values(), *saves[-count:]})


def test_the_milestones_of_the_docstring_hold():
    """A save each 300 steps, one kept of each 1000."""
    assert run(KeepEvery(1000), list(range(300, 4501, 300))) == [1200, 2100, 3000, 4200, 4500]


@pytest.mark.parametrize("other", [None, 5, "last", KeepLast, object()])
def test_only_policies_compose(other):
    """Anything else is refused where it is given, also a policy's class."""
    with pytest.raises(SettingTypeError, match="^keep: "):
        KeepLast(1) | other


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"monitor": ""}, "monitor"),
        ({"monitor": None}, "monitor"),
        ({"monitor": "acc", "mode": "best"}, "mode"),
        ({"monitor": "acc", "mode": None}, "mode"),
        ({"monitor": "acc", "count": 0}, "count"),
        ({"monitor": "acc", "count": 1.5}, "count"),
    ],
)
def test_what_is_best_is_said_in_full(settings, field):
    """The error names the field."""
    with pytest.raises(SettingError, match=f"^{field}: "):
        KeepBest(**settings)


@pytest.mark.parametrize("policy", [KeepLast, KeepOnePer, KeepEvery])
@pytest.mark.parametrize("number", [0, -1, float("nan"), True, "1", None])
def test_a_number_is_above_zero(policy, number):
    """A policy that would let the newest expire is refused."""
    with pytest.raises(SettingError, match="above zero"):
        policy(number)
