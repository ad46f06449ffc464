"""``milepost verify``: whether every byte is as it was saved."""

from __future__ import annotations

from pathlib import Path

import click

from milepost.cli.output import (
    DONE,
    FOUND,
    REFUSED,
    Screen,
    cell,
    emit,
    error_facts,
    examples,
    json_option,
    progress,
    size,
)
from milepost.errors import CheckpointNotFoundError, ReadError
from milepost.verification import Verdict, files_in, verify


@click.command(
    "verify",
    short_help="Check every byte of files or folders.",
    epilog=examples("milepost verify runs", "milepost verify a.ckpt b.ckpt && echo sound"),
)
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE|DIR...")
@json_option
def command(paths: tuple[Path, ...], as_json: bool) -> int:
    """Read every byte of each FILE, and of each checkpoint in each DIR, and compare it with what was saved.

    Exit codes: 0 all are sound; 1 one is damaged, or is no checkpoint; 2 one is missing or cannot be read.
    """
    files = [file for path in paths for file in files_in(path)]
    out, verdicts = Screen(), []
    with progress(out, "verifying", sum(file.stat().st_size for file in files if file.is_file())) as on_checked:
        for verdict in verify(*files, on_checked=on_checked):
            verdicts.append(verdict)
            if not as_json:
                out.print(cell(_line(verdict), "" if verdict.error is None else "red"))
    unsound = [verdict for verdict in verdicts if _code(verdict) == FOUND]
    unread = [verdict for verdict in verdicts if _code(verdict) == REFUSED]
    if as_json:
        emit({"files": [_facts(verdict) for verdict in verdicts]})
    elif len(verdicts) > 1:
        nbytes = size(sum(verdict.nbytes for verdict in verdicts))
        sound = len(verdicts) - len(unsound) - len(unread)
        bad = f", {len(unsound)} unsound" * bool(unsound) + f", {len(unread)} unread" * bool(unread)
        out.print(cell(f"{len(verdicts)} files, {nbytes}: {sound} sound{bad}", "bold"))
    return FOUND if unsound else REFUSED if unread else DONE


def _code(verdict: Verdict) -> int:
    if verdict.error is None:
        return DONE
    return REFUSED if isinstance(verdict.error, CheckpointNotFoundError | ReadError) else FOUND


def _line(verdict: Verdict) -> str:
    if verdict.error is not None:
        return f"{('sound', 'UNSOUND', 'UNREAD')[_code(verdict)]:<8}  {verdict.error}"
    checked = "" if verdict.has_checksums else "; it has no checksums, so its structure was checked"
    return f"{'sound':<8}  {verdict.path}  {size(verdict.nbytes)}, {verdict.entries:,} entries{checked}"


def _facts(verdict: Verdict) -> dict[str, object]:
    return {
        "file": str(verdict.path),
        "verdict": ("sound", "unsound", "unread")[_code(verdict)],
        "nbytes": verdict.nbytes,
        "entries": verdict.entries,
        "has_checksums": verdict.has_checksums,
        "error": None if verdict.error is None else error_facts(verdict.error),
    }
