"""What commands say: tables, figures, one JSON object, a progress bar, an exit code. Nothing is found out here."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

DONE, FOUND, REFUSED = 0, 1, 2
"""Exit codes: done; damage or a difference was found; wrong usage, or something that cannot be read or written."""

INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes: what a shell says of a process that SIGINT or SIGPIPE ended."""

_WIDE = 10_000
"""Columns where there is no terminal: a line of a table stays one line, for grep and awk."""

_LEAST = 12
"""Columns that are left to a column of a table that gives way."""

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
"""Of bytes, in powers of 1000."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead, for programs.")


def examples(*lines: str) -> str:
    """Return the end of a command's help."""
    return "\b\n" + "\n".join(["Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def emit(facts: Mapping[str, Any]) -> None:
    """Print one JSON object; what is not a number in JSON has become null or a text before."""
    click.echo(json.dumps(facts, indent=2, allow_nan=False))


class Screen(Console):
    """Where text goes: coloured on a terminal unless NO_COLOR is set, and as wide as it."""

    def __init__(self) -> None:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else None if sys.stdout.isatty() else _WIDE
        # rich takes a width on any terminal only together with a height, which nothing here depends on.
        height = None if width is None else 25
        super().__init__(markup=False, emoji=False, highlight=False, width=width, height=height)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print; in a file or a pipe, lines do not end in blanks."""
        if self.is_terminal:
            super().print(*objects, **settings)
            return
        with self.capture() as captured:
            super().print(*objects, **settings)
        self.file.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())

    def on_broken_pipe(self) -> None:
        """Leave it to `app`, which knows the exit code."""
        raise BrokenPipeError


def table(*columns: str, **styles: str) -> Table:
    """A table without lines; a column whose name begins with ``>`` is aligned to the right, ``<`` gives way first.

    Args:
        columns: The columns' names.
        styles: Column name to the style of its cells.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        name = column.lstrip("<>")
        made.add_column(
            name,
            justify="right" if column.startswith(">") else "left",
            no_wrap=not column.startswith("<"),
            min_width=_LEAST if column.startswith("<") else None,
            overflow="fold",
            style=styles.get(name, ""),
        )
    return made


def cell(text: object, style: str = "") -> Text:
    """Text as it is, and nothing that a terminal would obey."""
    return Text(clean(str(text)), style=style)


def clean(text: str) -> str:
    r"""Return text with everything unprintable spelled out, so that a name in a file cannot steer a terminal.

    >>> clean("bad\x1b[2Jname")
    'bad\\x1b[2Jname'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def size(nbytes: int) -> str:
    """Return a number of bytes for people, in powers of 1000.

    >>> size(999), size(1000), size(188_249_088)
    ('999 B', '1.0 kB', '188.2 MB')
    """
    step = 0
    value = float(nbytes)
    while value >= 999.95 and step < len(UNITS) - 1:
        value /= 1000
        step += 1
    return f"{nbytes} B" if step == 0 else f"{value:.1f} {UNITS[step]}"


def age(seconds: float) -> str:
    """Return how long ago something was, to the largest unit.

    >>> age(5), age(200), age(7_300), age(200_000), age(-3)
    ('5 s', '3 min', '2 h', '2 d', '0 s')
    """
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (length if unit != "d" else 2 * 86_400):
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def figure(value: float) -> str:
    """Return a number to four digits.

    >>> figure(0.97249), figure(1e-9), figure(0), figure(12345.6)
    ('0.9725', '1e-09', '0', '1.235e+04')
    """
    return f"{value:.4g}"


def figures(values: Mapping[str, float]) -> str:
    """Return named numbers on one line."""
    return ", ".join(f"{name} {figure(value)}" for name, value in values.items())


def share(part: float, whole: float) -> str:
    """Return a part of a whole in percent."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def shape(dimensions: Sequence[object]) -> str:
    """Return a shape as it is written: ``64x3x7x7``."""
    return "x".join(map(str, dimensions)) if dimensions else "scalar"


def shapes(of_one_rank: Sequence[tuple[int, ...]]) -> str:
    """Return several shapes as one, with the range of each length that differs.

    >>> shapes([(64, 3, 7), (128, 3, 5)]), shapes([(), ()])
    ('64..128x3x5..7', 'scalar')
    """
    lengths = [sorted({*each}) for each in zip(*of_one_rank, strict=True)]
    return shape([str(each[0]) if len(each) == 1 else f"{each[0]}..{each[-1]}" for each in lengths])


def number(value: float | None) -> float | None:
    """Return a number as JSON has it: null for what is not finite."""
    return None if value is None or not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """Return figures, in lists and dicts of any depth, as JSON has them: ``"nan"``, ``"inf"`` where not finite.

    >>> plain({"a": [1.5, math.inf, 2 + 1j]})
    {'a': [1.5, 'inf', [2.0, 1.0]]}
    """
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def error_facts(error: Any) -> dict[str, str]:
    """Return an error of Milepost's as JSON."""
    return {
        "kind": type(error).__name__,
        "where": error.where,
        "found": error.found,
        "expected": error.expected,
        "remedy": error.remedy,
    }


@contextmanager
def progress(out: Screen, what: str, total_nbytes: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs, on a terminal only; it gives what to call with the bytes that are done."""
    if not out.is_interactive:
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(what, total=total_nbytes)
        yield lambda nbytes: bar.advance(task, nbytes)


def working(out: Screen, what: str) -> AbstractContextManager[object]:
    """Show on a terminal that something goes on whose end nobody knows."""
    return out.status(what) if out.is_interactive else nullcontext()
