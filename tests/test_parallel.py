"""Jobs side by side: all of them, once, and the first failure ends it."""

from __future__ import annotations

import threading

import pytest

from milepost import parallel
from milepost.parallel import LARGE_NBYTES, run


@pytest.mark.parametrize("can_start", [True, False])
def test_all_jobs_are_done_once(monkeypatch, can_start):
    """Small ones in turn by the calling thread; large ones by whoever is free, also where no thread can be had."""
    if not can_start:
        monkeypatch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("planned")))
    done = []

    def act(number):
        done.append((number, threading.current_thread()))

    run((LARGE_NBYTES if number % 2 else 1, lambda number=number: act(number)) for number in range(40))
    this = threading.current_thread()
    assert [one for one in done if one[0] % 2 == 0] == [(number, this) for number in range(0, 40, 2)]
    assert sorted(number for number, _ in done) == list(range(40))


@pytest.mark.parametrize("nbytes", [1, LARGE_NBYTES])
def test_large_jobs_run_beside_others(nbytes, monkeypatch):
    """Two that wait for each other come to an end, if one of them is large."""
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 2)
    barrier = threading.Barrier(2, timeout=10)
    run([(nbytes, barrier.wait), (LARGE_NBYTES, barrier.wait)])


@pytest.mark.parametrize("nbytes", [1, LARGE_NBYTES])
def test_a_failure_is_raised_and_ends_it(nbytes):
    """What was not begun is not begun; an `IndexError` of a job is a failure like any other."""
    done = []

    def fail():
        raise IndexError("mine")

    threads = threading.active_count()
    with pytest.raises(IndexError, match="mine"):
        run([(nbytes, fail), *[(nbytes, lambda: done.append(1))] * 1000])
    assert len(done) < 1000
    assert threading.active_count() == threads
