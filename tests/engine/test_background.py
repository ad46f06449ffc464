"""Jobs beside the training: one at a time, failures kept, nothing left behind by a fork."""

from __future__ import annotations

import os
import threading

import pytest

from milepost.engine.background import Background


def test_a_job_runs_beside_its_caller_and_is_waited_for():
    """It is busy until the job has ended."""
    background, gate, done = Background(), threading.Event(), []
    background.begin(lambda: (gate.wait(10), done.append(threading.current_thread().name)))
    assert background.is_busy
    gate.set()
    background.wait()
    assert done == ["milepost"]
    assert not background.is_busy


def test_a_second_job_begins_when_the_first_has_ended():
    """There is never more than one."""
    background, running, most = Background(), [], []

    def job():
        running.append(1)
        most.append(len(running))
        running.pop()

    for _ in range(20):
        background.begin(job)
    background.wait()
    assert most == [1] * 20


def test_a_failure_is_taken_once():
    """It is nobody's but the one's who asks."""
    background = Background()
    background.begin(lambda: 1 // 0)
    background.wait()
    assert background.has_failed
    assert isinstance(background.take_failure(), ZeroDivisionError)
    assert background.take_failure() is None


def test_what_is_to_be_done_when_idle_is_done_after_the_job_even_if_that_failed():
    """At once where there is none."""
    background, gate, told = Background(), threading.Event(), []
    background.when_idle(lambda: told.append("at once"))
    background.begin(lambda: (gate.wait(10), 1 // 0))
    background.when_idle(lambda: told.append("later"))
    assert told == ["at once"]
    gate.set()
    background.wait()
    assert told == ["at once", "later"]
    background.take_failure()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12, about just this
def test_a_forked_child_has_no_job_to_wait_for():
    """Neither is anything busy in it, nor does waiting hang."""
    background, gate = Background(), threading.Event()
    background.begin(lambda: gate.wait(10))
    child = os.fork()
    if child == 0:
        background.wait()
        is_idle = not background.is_busy and not background.has_failed and background.take_failure() is None
        os._exit(0 if is_idle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    gate.set()
    background.wait()
