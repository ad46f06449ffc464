"""Several ways to do one thing, measured in turns: medians, ratios, memory. What they do is not known here."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Options:
    """How a run is to be made.

    Args:
        folder: Where files are written; of the disk that is meant.
        is_quick: Whether small workloads and few rounds are enough, to see that it works.
    """

    folder: Path
    is_quick: bool = False

    def rounds(self, count: int) -> int:
        """How many rounds to measure."""
        return min(count, 3) if self.is_quick else count


@dataclass(frozen=True)
class Cost:
    """What a way measured of itself, because it ran elsewhere or knows better when it began."""

    seconds: float
    cpu_seconds: float
    extra_nbytes: int = 0


@dataclass(frozen=True)
class Way:
    """One way to do the thing.

    Args:
        name: As it stands in the table.
        act: Does it once; what it returns is dropped after the clock has stopped, unless it is a `Cost`.
        prepare: Called before each time, outside of the measurement.
        has_memory: Whether its extra memory is measured, in one more round.
        rounds: At most so many rounds, for what takes very long.
    """

    name: str
    act: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    has_memory: bool = True
    rounds: int | None = None


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; the memory is of one round: its highest, less what was held before."""

    name: str
    seconds: float
    cpu_seconds: float
    extra_nbytes: int
    times: list[float] = field(repr=False)


@dataclass(frozen=True)
class Table:
    """Results that can be compared.

    Args:
        title: What was done with what.
        base: The way whose time is 1.00.
        results: One for each way.
    """

    title: str
    base: str
    results: dict[str, Result]

    def ratio(self, name: str, over: str | None = None) -> float:
        """The time of one way over that of another, by default of the base."""
        return self.results[name].seconds / self.results[over or self.base].seconds

    def markdown(self) -> str:
        """The table, ratios first, because times drift from hour to hour."""
        lines = ["| way | time, ratio | time, ms | CPU, ms | extra memory, MiB |", "|---|---|---|---|---|"]
        for name, result in self.results.items():
            memory = "-" if result.extra_nbytes < 0 else f"{result.extra_nbytes / 2**20:.0f}"
            times = f"{1e3 * result.seconds:.1f} | {1e3 * result.cpu_seconds:.1f}"
            lines.append(f"| {name} | {self.ratio(name):.2f} | {times} | {memory} |")
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Target:
    """A promise and what was measured of it: met if `measured` is at most `limit`."""

    what: str
    limit: float
    measured: float
    unit: str = "x"

    @property
    def is_met(self) -> bool:
        """Whether it holds."""
        return self.measured <= self.limit

    def markdown(self) -> str:
        """A row."""
        met = "yes" if self.is_met else "**no**"
        return f"| {self.what} | {self.limit:g} {self.unit} | {self.measured:.2f} {self.unit} | {met} |"


@dataclass(frozen=True)
class Section:
    """What one suite found out."""

    title: str
    tables: Sequence[Table]
    targets: Sequence[Target]
    notes: str = ""


def measure(ways: Sequence[Way], rounds: int, warm_up: int = 1) -> dict[str, Result]:
    """Do each way once in each round, in a new order every time: neither a drift nor who went before hits one alone."""
    costs: dict[str, list[Cost]] = {way.name: [] for way in ways}
    order = Random(len(ways))
    for number in range(-warm_up, rounds):
        for way in order.sample(ways, len(ways)):
            if way.rounds is not None and not 0 <= number < way.rounds:
                continue
            cost = _once(way)
            if number >= 0:
                costs[way.name].append(cost)
    memory = {way.name: _extra_nbytes(way) for way in ways}
    return {name: _result(name, costs[name], memory[name]) for name in costs}


def _result(name: str, costs: list[Cost], extra_nbytes: int) -> Result:
    times = [cost.seconds for cost in costs]
    own = max(cost.extra_nbytes for cost in costs)
    cpu = statistics.median(cost.cpu_seconds for cost in costs)
    return Result(name, statistics.median(times), cpu, own or extra_nbytes, times)


def _once(way: Way) -> Cost:
    way.prepare()
    gc.collect()
    cpu, began = cpu_seconds(), time.perf_counter()
    made = way.act()
    seconds, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    return made if isinstance(made, Cost) else Cost(seconds, cpu)


def cpu_seconds() -> float:
    """Processor time of this process, all its threads, and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _extra_nbytes(way: Way) -> int:
    """The highest memory of one time, less what was held before it; -1 where it is not measured."""
    if not way.has_memory:
        return -1
    way.prepare()
    gc.collect()
    reset_peak()
    before = _status("VmRSS")
    made = way.act()
    peak = _status("VmHWM")
    del made
    return max(0, peak - before)


def reset_peak() -> None:
    """Let the kernel's high-water mark of this process's memory begin anew: exact, where sampling would miss peaks."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_nbytes() -> int:
    """The highest memory since `reset_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(key)
