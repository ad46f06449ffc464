"""The harness measures what it says: in turns, by medians, and into the page between its marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.harness import Cost, Section, Table, Target, Way, measure
from benchmarks.workloads import Live, tiny

from benchmarks import raw, report

ROOT = Path(__file__).parents[2]


def test_ways_are_measured_in_turns_after_a_round_that_does_not_count():
    """Each round begins with another one; what takes long sits rounds out, and is not warmed up."""
    done = []
    ways = [Way(name, lambda name=name: done.append(name), has_memory=False) for name in "ab"]
    slow = Way("c", lambda: done.append("c"), has_memory=False, rounds=1)
    results = measure([*ways, slow], 2)
    assert "".join(done) == "abcabba" or sorted(done) == sorted("ababcab")
    assert [len(result.times) for result in results.values()] == [2, 2, 1]


def test_a_result_is_the_median_and_a_way_may_have_measured_itself():
    """One slow round does not move it."""
    costs = iter([Cost(9, 9), Cost(3, 1), Cost(1, 3), Cost(50, 2, 7)])
    (result,) = measure([Way("it", lambda: next(costs), has_memory=False)], 3).values()
    assert (result.seconds, result.cpu_seconds, result.extra_nbytes) == (3, 2, 7)


def test_memory_is_the_highest_while_it_ran():
    """Also what is let go of again before it ends."""

    def act():
        bytearray(b"x" * (64 << 20))

    (result,) = measure([Way("it", act)], 1).values()
    assert result.extra_nbytes > 60 << 20


def test_the_report_goes_between_the_marks_and_can_go_there_again(tmp_path):
    """What stands around them stays; targets say whether they are met."""
    results = measure([Way("base", lambda: Cost(2, 1)), Way("it", lambda: Cost(1, 1))], 1)
    table = Table("Save", "base", results)
    section = Section("Saving", [table], [Target("it / base", 0.6, table.ratio("it")), Target("time", 1, 2, "ms")])
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    for _ in range(2):
        report.put_into(page, report.markdown([section]))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| it / base | 0.6 x | 0.50 x | yes |" in text
    assert "| time | 1 ms | 2.00 ms | **no** |" in text
    assert json.loads(report.as_json([section]))["sections"][0]["tables"][0]["results"]["it"]["times"] == [1]
    with pytest.raises(SystemExit, match="marks"):
        report.put_into(ROOT / "README.md", "")


def test_the_documentation_has_a_place_for_the_report():
    """`make bench` writes it there."""
    text = (ROOT / "docs/performance.md").read_text()
    assert text.index(report.BEGIN) < text.index(report.END)


def test_the_raw_limits_write_the_same_bytes(tmp_path):
    """A limit that wrote less would be no limit."""
    workload = tiny(is_small=True)
    path = tmp_path / "raw"
    raw.gathered_write(path, raw.views(workload), fsync=True)
    assert path.read_bytes() == b"".join(tensor.numpy().tobytes() for tensor in workload.state.values())
    buffer = bytearray(workload.nbytes)
    raw.read(path, memoryview(buffer))
    assert buffer == path.read_bytes()
    assert list(Live(workload.state).state_dict()) == list(workload.state)
