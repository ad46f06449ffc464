"""``milepost verify``: whether every byte is as it was saved."""

from __future__ import annotations

from pathlib import Path

import click

from milepost.cli.files import Key, key_options
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
from milepost.errors import (
    CheckpointNotFoundError,
    DecryptionError,
    MissingExtraError,
    NotACheckpointError,
    ReadError,
    SettingError,
)
from milepost.verification import Verdict, files_in, verify

SOUND, UNSOUND, UNREAD, OTHER = "sound", "unsound", "unread", "other"
"""As saved; damaged, or no checkpoint; missing, or not to be read; a file of a folder that is no checkpoint."""


@click.command(
    "verify",
    short_help="Check every byte of files or folders.",
    epilog=examples("milepost verify runs", "milepost verify a.ckpt b.ckpt && echo sound"),
)
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE|DIR...")
@key_options
@json_option
def command(paths: tuple[Path, ...], key: Key, as_json: bool) -> int:
    """Read every byte of each FILE, and of each checkpoint in each DIR, and compare it with what was saved.

    Files that record no checksums are checked as far as they can be: structure, lengths, CRCs where there are some.
    Files of torch.save in a DIR that hold no weights are passed over.

    Exit codes: 0 all are sound; 1 one is damaged, or is no checkpoint; 2 one is missing or cannot be read.
    """
    files = [file for path in paths for file in files_in(path)]
    out, verdicts = Screen(), []
    with progress(out, "verifying", sum(file.stat().st_size for file in files if file.is_file())) as on_checked:
        for verdict in verify(*files, on_checked=on_checked, open_with=key.open_file):
            verdicts.append((_word(verdict, key, is_named=verdict.path in paths), verdict))
            if not as_json:
                out.print(cell(_line(*verdicts[-1]), "red" if verdicts[-1][0] in (UNSOUND, UNREAD) else ""))
    words = [word for word, _ in verdicts]
    if as_json:
        emit({"files": [_facts(*each) for each in verdicts]})
    elif len(verdicts) > 1:
        counts = ", ".join(f"{words.count(word)} {word}" for word in (SOUND, UNSOUND, UNREAD, OTHER) if word in words)
        out.print(cell(f"{len(words)} files, {size(sum(verdict.nbytes for _, verdict in verdicts))}: {counts}", "bold"))
    return FOUND if UNSOUND in words else REFUSED if UNREAD in words else DONE


def _word(verdict: Verdict, key: Key, *, is_named: bool) -> str:
    """What a verdict comes to; a file of torch.save in a folder can be anything, an optimizer's or a tokenizer's."""
    error = verdict.error
    if error is None:
        return SOUND
    if isinstance(error, NotACheckpointError) and not is_named and verdict.path.suffix in (".pt", ".pth", ".bin"):
        return OTHER
    is_closed = isinstance(error, DecryptionError) and key.content is None
    is_unread = isinstance(error, CheckpointNotFoundError | ReadError | MissingExtraError | SettingError)
    return UNREAD if is_closed or is_unread else UNSOUND


def _line(word: str, verdict: Verdict) -> str:
    if verdict.error is not None:
        return f"{word.upper() if word != OTHER else word:<8}  {verdict.error}"
    checked = "" if verdict.has_checksums else "; its entries have no checksums"
    return f"{word:<8}  {verdict.path}  {size(verdict.nbytes)}, {verdict.entries:,} entries{checked}"


def _facts(word: str, verdict: Verdict) -> dict[str, object]:
    return {
        "file": str(verdict.path),
        "verdict": word,
        "nbytes": verdict.nbytes,
        "entries": verdict.entries,
        "has_checksums": verdict.has_checksums,
        "error": None if verdict.error is None else error_facts(verdict.error),
    }
