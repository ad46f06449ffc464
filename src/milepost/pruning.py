"""`prune`: remove from a folder what a policy would not have kept. What has expired is decided by the policy alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from milepost.catalog.folder import best_of, survey
from milepost.catalog.names import stem
from milepost.catalog.records import Record, records
from milepost.errors import MilepostError
from milepost.policy.checks import check_policy
from milepost.policy.keep import KeepPolicy, expired
from milepost.storage.base import Storage
from milepost.storage.local import LocalStorage


@dataclass(frozen=True, slots=True)
class Pruned:
    """What became of a run.

    Args:
        prefix: The training's name.
        ordinal: The run's number, from 1.
        kept: The checkpoints that stay, oldest first.
        expired: Those that go, or would go.
        failures: Those of `expired` that could not be removed, and why.
        holder: The living process that has the run, of which therefore nothing goes; or None.
    """

    prefix: str
    ordinal: int
    kept: Sequence[Record]
    expired: Sequence[Record]
    failures: Sequence[tuple[Record, MilepostError]]
    holder: str | None


def prune(directory: str | os.PathLike[str] | Storage, policy: KeepPolicy, *, is_dry_run: bool = True) -> list[Pruned]:
    """Remove the checkpoints that `policy` would have removed, had it been in force since each run began.

    Never removed are a run's newest, the best (that which ``-best.ckpt`` is another name of), breakpoint files, what
    cannot be read, and what Milepost did not write; nor anything of a run that a living process has.

    Args:
        directory: The folder; or a storage, such as the `SealedStorage` of encrypted checkpoints.
        policy: What to keep of each run, e.g. ``KeepLast(3) | KeepBest("accuracy")``.
        is_dry_run: Whether to only say what would go.

    Returns:
        What became, or would become, of each run.

    Raises:
        SettingTypeError: `policy` is no policy.
        SaveError: The folder cannot be written to.

    Example:
        >>> import tempfile
        >>> from milepost.policy.keep import KeepLast
        >>> prune(tempfile.mkdtemp(), KeepLast(3))
        []
    """
    check_policy("policy", policy, "expired")
    storage = LocalStorage(directory) if isinstance(directory, str | os.PathLike) else directory
    found = [(run.prefix, run.ordinal) for run in survey(storage).runs if run.records]
    return [_prune(storage, prefix, ordinal, policy, is_dry_run) for prefix, ordinal in found]


def _prune(storage: Storage, prefix: str, ordinal: int, policy: KeepPolicy, is_dry_run: bool) -> Pruned:
    name = stem(prefix, ordinal)
    lock = storage.lock(name)
    if lock is None:
        return Pruned(prefix, ordinal, records(storage, prefix, ordinal), (), (), storage.holder(name))
    with lock:  # what was found before it was ours may be out of date
        own = records(storage, prefix, ordinal)
        gone = _expired(policy, own, best_of(storage, prefix, ordinal, own))
        failures = [] if is_dry_run else _remove(storage, gone)
    return Pruned(prefix, ordinal, [record for record in own if record not in gone], gone, failures, None)


def _expired(policy: KeepPolicy, own: Sequence[Record], best: Record | None) -> list[Record]:
    """What is not left when the policy is asked after each save, as in a training."""
    left: list[Record] = []
    for record in own:
        left.append(record)
        gone = expired(policy, left)
        left = [each for each in left if each not in gone]
    return [record for record in own if record not in left and record is not best]


def _remove(storage: Storage, gone: Sequence[Record]) -> list[tuple[Record, MilepostError]]:
    failures = []
    for record in gone:
        try:
            storage.remove(record.name.text)
        except MilepostError as error:
            failures.append((record, error))
    return failures
