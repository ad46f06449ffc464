"""Several jobs at once, on as many threads as pay. What the jobs are is not known here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable

LARGE_NBYTES = 64 << 10
"""Jobs over fewer bytes are mostly Python, of which only one thread runs at a time."""

MOST_THREADS = 4
"""Memory has been busy enough with fewer."""

Job = tuple[int, Callable[[], object]]
"""How many bytes it is over, and what is to be done."""


def run(jobs: Iterable[Job]) -> None:
    """Do all jobs: small ones in turn, large ones beside them and each other; the calling thread does its share.

    The first failure ends it: jobs that were begun are finished, the others are not begun, and it is raised.

    >>> done = []
    >>> run([(10, lambda: done.append("a")), (10, lambda: done.append("b"))])
    >>> done
    ['a', 'b']
    """
    jobs = list(jobs)
    small = [act for nbytes, act in jobs if nbytes < LARGE_NBYTES]
    large = [act for nbytes, act in jobs if nbytes >= LARGE_NBYTES]
    _Team(small, large).run(min(MOST_THREADS, os.cpu_count() or 1, len(large) + bool(small)))


class _Team:
    """Threads that take jobs until none is left, or one of them has failed; small ones are the calling thread's."""

    def __init__(self, small: list[Callable[[], object]], large: list[Callable[[], object]]) -> None:
        self._small, self._large = small[::-1], large[::-1]
        self._errors: list[BaseException] = []

    def run(self, threads: int) -> None:
        helpers = [threading.Thread(target=self._work, args=(self._large,), daemon=True) for _ in range(threads - 1)]
        started = []
        try:
            for helper in helpers:
                helper.start()
                started.append(helper)
        except RuntimeError:  # an interpreter that is about to end may have no more
            pass
        self._work(self._small)
        self._work(self._large)
        for helper in started:
            helper.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, left: list[Callable[[], object]]) -> None:
        while True:
            try:
                act = left.pop()
            except IndexError:
                return
            try:
                act()
            except BaseException as error:
                self._errors.append(error)
                self._small.clear()
                self._large.clear()
