"""`Background`: one job at a time, in a thread beside the training. What a job does is not known here."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


class Background:
    """Runs one job at a time; what it raises is kept until somebody asks.

    The thread lives as long as its job, and the interpreter does not end before it. A forked child has neither thread
    nor job: there, nothing is busy, and nothing has failed.

    Example:
        >>> background = Background()
        >>> background.begin(lambda: 1 // 0)
        >>> background.wait()
        >>> background.take_failure()
        ZeroDivisionError('integer division or modulo by zero')
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._failure: BaseException | None = None
        self._afterwards: list[Callable[[], object]] = []
        # Reentrant, because garbage may be collected inside, and a manager that goes with it asks when this is idle.
        self._mutex = threading.RLock()

    @property
    def is_busy(self) -> bool:
        """Whether a job is at work."""
        return self._thread is not None and self._process == os.getpid()

    @property
    def has_failed(self) -> bool:
        """Whether there is a failure to be taken."""
        return self._failure is not None and self._process == os.getpid()

    def begin(self, job: Callable[[], object]) -> None:
        """Start a job, when the one before has ended."""
        self.wait()
        self._process = os.getpid()
        begins = threading.Event()
        may_run: list[bool] = []
        thread = threading.Thread(target=self._run, args=(job, begins, may_run), name="milepost", daemon=False)
        try:
            thread.start()
            self._thread = thread
            may_run.append(True)
        except BaseException:  # no thread to be had, or an interrupt while it came to life
            self._thread = None
            may_run.clear()
            raise
        finally:
            begins.set()

    def wait(self) -> None:
        """Return when no job is at work any more."""
        thread = self._thread
        if thread is not None and self._process == os.getpid() and thread is not threading.current_thread():
            thread.join()

    def take_failure(self) -> BaseException | None:
        """Return what the last job raised, once."""
        failure, self._failure = self._failure, None
        return failure if self._process == os.getpid() else None

    def when_idle(self, act: Callable[[], object]) -> None:
        """Do something now, or when the job that is at work has ended."""
        with self._mutex:
            if self.is_busy:
                self._afterwards.append(act)
                return
        act()

    def _run(self, job: Callable[[], object], begins: threading.Event, may_run: list[bool]) -> None:
        begins.wait()  # else the caller gets the interpreter back only when Python takes it away from the job
        if not may_run:
            return
        try:
            job()
        except BaseException as failure:  # the one who asks decides what is to be done about it
            self._failure = failure
        finally:
            with self._mutex:
                self._thread = None
                afterwards, self._afterwards = self._afterwards, []
            for act in afterwards:
                act()
