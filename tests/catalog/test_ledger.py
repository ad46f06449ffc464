"""The ledger: what was measured comes back, and what is not ours is refused."""

from __future__ import annotations

import errno
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.catalog import ledger
from milepost.catalog.ledger import Report
from milepost.errors import DamagedCheckpointError, SaveError, UnsupportedStateError
from milepost.storage.local import LocalStorage
from milepost.storage.memory import MemoryStorage

REPORT = {"epoch": 1, "step": 5, "global_step": 5, "time": 1.5, "metrics": {"loss": 0.5, "norm": "nan"}}
OWNER = {"prefix": "a", "ordinal": 1}

COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
REPORTS = st.lists(
    st.builds(
        Report,
        COUNTS,
        COUNTS,
        COUNTS,
        st.floats(allow_nan=False, allow_infinity=False),
        st.dictionaries(TEXTS, st.floats(allow_nan=False)),
    )
)


def put(storage: MemoryStorage, content: object) -> MemoryStorage:
    storage.put("a-metrics.json", content if isinstance(content, bytes) else json.dumps(content).encode())
    return storage


@given(REPORTS)
def test_what_was_reported_comes_back(reports):
    """To the bit, and in order."""
    storage = MemoryStorage()
    ledger.write(storage, "a", 2, reports)
    assert ledger.read(storage, "a", 2) == reports
    assert [stat.name for stat in storage.list()] == ["a_2-metrics.json"]


def test_a_diverged_metric_comes_back():
    """As a text in the file, since JSON has no such number."""
    storage = MemoryStorage()
    ledger.write(storage, "a", 1, [Report(1, 1, 1, 0.0, {"loss": math.nan, "norm": -math.inf})])
    (report,) = ledger.read(storage, "a", 1)
    assert str(report.metrics) == "{'loss': nan, 'norm': -inf}"


def test_a_run_without_reports_has_none(tmp_path):
    """Absence is no error, also of the folder."""
    assert ledger.read(LocalStorage(tmp_path / "nowhere"), "a", 1) == []


def test_each_report_is_whole_or_not_there(tmp_path):
    """A refused write leaves what was there."""

    def refuse(verb: str, name: str) -> None:
        if verb == "commit" and len(storage.list()) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    storage = MemoryStorage(refuse)
    first = [Report(1, 1, 1, 0.0, {"loss": 1.0})]
    ledger.write(storage, "a", 1, first)
    with pytest.raises(SaveError, match="No space left"):
        ledger.write(storage, "a", 1, first * 2)
    assert ledger.read(storage, "a", 1) == first


def test_a_name_with_two_meanings_is_its_owners():
    """``a_2-metrics.json`` is of ``a`` or of ``a_2``, as it says."""
    storage = MemoryStorage()
    reports = [Report(1, 1, 1, 0.0, {"loss": 1.0})]
    ledger.write(storage, "a_2", 1, reports)
    assert ledger.read(storage, "a", 2) == []
    assert ledger.read(storage, "a_2", 1) == reports


def test_what_others_may_add_is_passed_over():
    """A key that is not known yet does not make the file unreadable."""
    storage = put(MemoryStorage(), {"run": OWNER, "reports": [{**REPORT, "new": 1}], "new": 2})
    (report,) = ledger.read(storage, "a", 1)
    assert (report.epoch, report.step, report.global_step, report.created) == (1, 5, 5, 1.5)
    assert str(report.metrics) == "{'loss': 0.5, 'norm': nan}"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"{", b"[]", b"1", b"null", b"{}", b"[" * 100_000, b'{"run":{},"run":{}}'),
        *({"run": run, "reports": []} for run in (None, 1, "a", [])),
        *({"run": OWNER, "reports": reports} for reports in (None, {}, 1, [1], [None], [[]], [{}])),
        *({"run": OWNER, "reports": [REPORT, {**REPORT, key: None}]} for key in REPORT),
        *(
            {"run": OWNER, "reports": [{**REPORT, key: value}]}
            for key in ("epoch", "step", "global_step")
            for value in (-1, 1.5, True, "1", 2**64)
        ),
        *({"run": OWNER, "reports": [{**REPORT, "time": value}]} for value in (True, "now", [], math.nan, math.inf)),
        *(
            {"run": OWNER, "reports": [{**REPORT, "metrics": value}]}
            for value in ([], 1, {"a": "much"}, {"a": None}, {"a": True}, {"a": []}, {"a": math.nan}, {"\ud800": 1})
        ),
        b'{"run":{"prefix":"a","ordinal":1},"reports":[{"epoch":1,"step":1,"global_step":1,"time":1e999,"metrics":{}}]}',
    ],
)
def test_what_is_not_ours_is_refused(content):
    """The error names the file, and says what to do."""
    with pytest.raises(DamagedCheckpointError, match=r"^memory:a-metrics\.json: found .*expected .*Move it away"):
        ledger.read(put(MemoryStorage(), content), "a", 1)


def test_a_file_too_large_is_refused_unread_and_never_written(monkeypatch):
    """A bound for what a file can make its reader do, which the writer keeps."""
    storage = put(MemoryStorage(), bytes(ledger.MAX_NBYTES + 1))
    with pytest.raises(DamagedCheckpointError, match="16,777,217 bytes"):
        ledger.read(storage, "a", 1)
    monkeypatch.setattr(ledger, "MAX_NBYTES", 100)
    with pytest.raises(SaveError, match="1 reports of .*at most 100 bytes"):
        ledger.write(storage, "a", 2, [Report(1, 1, 1, 0.0, {"loss": 1.0})])
    assert [stat.name for stat in storage.list()] == ["a-metrics.json"]


def test_a_name_of_a_metric_is_a_text():
    """Refused before anything is written."""
    storage = MemoryStorage()
    with pytest.raises(UnsupportedStateError, match="metrics"):
        ledger.write(storage, "a", 1, [Report(1, 1, 1, 0.0, {1: 1.0})])
    assert storage.list() == []
