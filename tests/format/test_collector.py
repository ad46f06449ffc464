"""The collector of garbage is paused for as long as anybody wants it, and no longer."""

from __future__ import annotations

import gc
import os
import threading

import pytest

from milepost.format.collector import paused


@pytest.fixture(autouse=True)
def _collecting():
    before = gc.isenabled()
    gc.enable()
    yield
    (gc.enable if before else gc.disable)()


def test_it_goes_on_when_the_last_thread_has_ended():
    """Whichever began first."""
    began, may_end = threading.Event(), threading.Event()

    def other():
        with paused():
            began.set()
            may_end.wait(10)

    thread = threading.Thread(target=other)
    with paused():
        thread.start()
        began.wait(10)
    assert not gc.isenabled()
    may_end.set()
    thread.join()
    assert gc.isenabled()


def test_what_was_off_stays_off():
    """Whoever switched it off wants it so."""
    gc.disable()
    with paused(), paused():
        pass
    assert not gc.isenabled()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_it_back():
    """It has none of the threads that paused it."""
    with paused():
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
