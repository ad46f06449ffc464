"""A process that ends while a save is in flight: the save is finished or absent, and so for every way to end."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.faults.system_calls import SystemCalls
from tests.faults.training import KEEP, Report, Training, judge


def exit_in_another_thread(folder: Path, report: Path, how: str, seconds: float) -> None:
    """Save in a thread, without end, while the main thread ends the process."""
    training = Training(folder)
    said = Report(report)
    first = training.resume()
    said.add("resumed", first)
    has_begun = threading.Event()

    def save_for_ever() -> None:
        for step in range(first + 1, first + 1_000_000):
            training.save(step)
            said.add("saved", step)
            has_begun.set()

    threading.Thread(target=save_for_ever, daemon=True).start()
    has_begun.wait(30)
    time.sleep(seconds)
    if how == "sys.exit":
        sys.exit(3)
    elif how == "os._exit":
        os._exit(3)
    raise RuntimeError("planned")


@pytest.mark.parametrize("how", ["sys.exit", "os._exit", "an exception"])
def test_a_process_that_ends_with_a_save_in_flight_leaves_it_finished_or_absent(
    tmp_path, processes, scale, figure, how
):
    """A daemon thread saves while the main thread ends the process, at different moments of a save."""
    folder, report = tmp_path / "run", tmp_path / "report"
    count = scale(6, 30)
    for number in range(count):
        arguments = (folder, report, how, 0.001 * number)
        process = processes.Process(target=exit_in_another_thread, args=arguments)
        process.start()
        process.join(60)
        assert process.exitcode == (1 if how == "an exception" else 3)
        process.close()
        judge(folder, Report(report).read())
    figure("exits with a save in flight", count)


def raise_in_a_save(folder: Path, report: Path, number: int) -> None:
    """Meet an exception in the thread that saves, at one of its system calls."""
    training = Training(folder)
    said = Report(report)
    said.add("resumed", training.resume())
    for step in range(1, KEEP + 1):
        training.save(step)
        said.add("saved", step)
    step = KEEP + 1

    def meet(call, do):
        if call.number == number:
            raise KeyboardInterrupt
        return do()

    try:
        with SystemCalls(meet) as calls:
            training.save(step)
    except KeyboardInterrupt:
        left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        assert not left or calls.calls[number - 1].name in ("unlink", "stat", "fstat", "open", "lockf"), left
        sys.exit(3)
    said.add("saved", step)
    sys.exit(0 if len(calls.calls) < number else 4)


def test_an_exception_at_any_system_call_of_a_save_leaves_it_finished_or_absent(tmp_path, processes):
    """Such as Ctrl-C, which Python raises wherever the training is."""
    for number in range(1, 1000):
        folder, report = tmp_path / f"run {number}", tmp_path / f"report {number}"
        process = processes.Process(target=raise_in_a_save, args=(folder, report, number))
        process.start()
        process.join(60)
        code = process.exitcode
        process.close()
        judge(folder, Report(report).read())
        if code == 0:
            break
        assert code == 3, f"call {number}"
    assert number > 10
