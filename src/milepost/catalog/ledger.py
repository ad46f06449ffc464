"""What was measured in a run, kept in one file beside its checkpoints. What is to come of it is not known here.

A checkpoint holds what was known when it was saved. An evaluation after that would have to write the whole file again;
it is reported here instead. The checkpoints are sound without this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from milepost.catalog.facts import are_metrics, is_count, is_number, metrics_of_json, metrics_to_json
from milepost.catalog.names import metrics_name
from milepost.errors import CheckpointNotFoundError, DamagedCheckpointError, SaveError
from milepost.format import strict_json
from milepost.storage.base import Storage

MAX_NBYTES = 16 * 2**20
"""Room for some 100,000 reports, and a bound for what a file can make its reader do."""

_SOUND = {"epoch": is_count, "step": is_count, "global_step": is_count, "time": is_number, "metrics": are_metrics}


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured at one step.

    Args:
        epoch: The epoch, from 1.
        step: The step within the epoch.
        global_step: Steps since the training began.
        created: When it was measured, in Unix seconds.
        metrics: Name to value.
    """

    epoch: int
    step: int
    global_step: int
    created: float
    metrics: Mapping[str, float] = field(hash=False)


def read(storage: Storage, prefix: str, run: int) -> list[Report]:
    """Return what was reported in a run, in that order; nothing where there is no file, or it is another run's.

    Args:
        storage: Where to look.
        prefix: The training's name.
        run: The run's ordinal, from 1.

    Raises:
        DamagedCheckpointError: The file is not what `write` writes.
        ReadError: The storage does not give the file.

    Example:
        >>> from milepost.storage.memory import MemoryStorage
        >>> storage = MemoryStorage()
        >>> write(storage, "resnet50", 3, [Report(1, 32, 32, 1.79e9, {"accuracy": 0.5})])
        >>> read(storage, "resnet50", 3)
        [Report(epoch=1, step=32, global_step=32, created=1790000000.0, metrics={'accuracy': 0.5})]
    """
    try:
        with storage.open(metrics_name(prefix, run)) as file:
            where = file.where
            if file.nbytes > MAX_NBYTES:
                _refuse(where, f"{file.nbytes:,} bytes")
            text = file.read(0, file.nbytes)
    except CheckpointNotFoundError:
        return []
    owner, reports = _parts(text, where)
    # "a_2-metrics.json" is the name of the second run of "a" and of the first of "a_2".
    return decode(reports, where) if owner == _owner(prefix, run) else []


def write(storage: Storage, prefix: str, run: int, reports: Sequence[Report]) -> None:
    """Replace what is reported of a run, in one step.

    Args:
        storage: Where to.
        prefix: The training's name.
        run: The run's ordinal, from 1.
        reports: All reports of the run.

    Raises:
        SaveError: The storage refused, or there are too many; what was there before is untouched.
        UnsupportedStateError: A metric's name is not a text.
    """
    name = metrics_name(prefix, run)
    facts = {"run": _owner(prefix, run), "reports": encode(reports)}
    content = strict_json.encode(facts, name)
    if len(content) > MAX_NBYTES:
        raise SaveError(
            storage.where(name),
            found=f"{len(reports):,} reports of {len(content):,} bytes together",
            expected=f"at most {MAX_NBYTES:,} bytes",
            remedy="Measure less often, or begin a new run.",
        )
    with storage.create(name, len(content)) as file:
        file.write(content)
        file.commit()


def encode(reports: Sequence[Report]) -> list[dict[str, object]]:
    """Return reports as JSON."""
    return [_facts(report) for report in reports]


def decode(reports: Any, where: str) -> list[Report]:
    """Undo `encode`, or raise `DamagedCheckpointError` with `where`."""
    if not isinstance(reports, list):
        _refuse(where, "no list of reports in it")
    return [_report(each, where) for each in reports]


def _owner(prefix: str, run: int) -> dict[str, object]:
    return {"prefix": prefix, "ordinal": run}


def _facts(report: Report) -> dict[str, object]:
    return {
        "epoch": report.epoch,
        "step": report.step,
        "global_step": report.global_step,
        "time": report.created,
        "metrics": metrics_to_json(report.metrics),
    }


def _parts(text: bytes, where: str) -> tuple[dict[str, Any], Any]:
    try:
        facts = strict_json.decode(text)
        strict_json.check(facts)
    except ValueError as error:
        _refuse(where, f"no such JSON ({error!s:.80})", error)
    if not isinstance(facts, dict) or not isinstance(facts.get("run"), dict):
        _refuse(where, "no run in it")
    return facts["run"], facts.get("reports")


def _report(facts: Any, where: str) -> Report:
    if not isinstance(facts, dict):
        _refuse(where, f"the report {facts!r:.80}")
    for key, is_sound in _SOUND.items():
        if not is_sound(facts.get(key)):
            _refuse(where, f"{facts.get(key)!r:.80} as the {key} of a report")
    metrics = metrics_of_json(facts["metrics"])
    return Report(facts["epoch"], facts["step"], facts["global_step"], float(facts["time"]), metrics)


def _refuse(where: str, found: str, cause: Exception | None = None) -> NoReturn:
    raise DamagedCheckpointError(
        where,
        found=found,
        expected=f"the reports that Milepost writes, in at most {MAX_NBYTES:,} bytes",
        remedy="Move it away; the checkpoints are sound without it, and hold what was measured before they were saved.",
    ) from cause
