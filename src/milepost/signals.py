"""Signals that ask a process to end, noted until somebody looks. What is done about them is not known here."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What schedulers send before they kill, what Ctrl-C sends, and what SLURM sends on request."""


class SignalWatch:
    """Notes the first signal inside a ``with`` block; the second is obeyed at once, as if nobody watched.

    Python lets only the main thread watch; in another one nothing is noted.

    Attributes:
        received: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            # Nothing but a flag in the handler: it runs between any two instructions, also in the middle of a save.
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        before, self._before = self._before, {}
        for number, handler in before.items():
            # A handler that C code has set is unknown to Python, which says None.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a handler's signature)
        if self.received is None:
            self.received = signal.Signals(number)
        else:
            self.__exit__(None, None, None)
            os.kill(os.getpid(), number)
