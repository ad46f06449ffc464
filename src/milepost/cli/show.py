"""``milepost show``: one entry of a file."""

from __future__ import annotations

import re
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milepost.cli.files import Key, key_options
from milepost.cli.output import Screen, cell, emit, examples, figure, json_option, plain, shape, size, table
from milepost.errors import SettingError
from milepost.format.text import decode_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from milepost.engine.open_file import OpenFile
    from milepost.format.spec import Entry
    from milepost.statistics import Statistics

_BAR = 40
"""Columns of the histogram's longest bar."""

_PART = re.compile(r"\s*(?:(?P<index>-?\d+)|(?P<start>-?\d+)?\s*:\s*(?P<stop>-?\d+)?(?:\s*:\s*(?P<step>-?\d+)?)?)\s*")


@click.command(
    "show",
    short_help="Show one entry: statistics, a histogram, values.",
    epilog=examples(
        "milepost show runs/resnet50-3_32.ckpt fc.weight",
        'milepost show runs/resnet50-3_32.ckpt fc.weight --slice "0, :5"',
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--slice", "text", metavar="SLICE", help='Print these values too, as NumPy would: "0, :5" or "::100".')
@key_options
@json_option
def command(file: Path, name: str, text: str | None, key: Key, as_json: bool) -> None:
    """Show the entry NAME of FILE: its shape and dtype, statistics and a histogram of its values, or its text.

    The content is read and checked. `milepost inspect --all FILE` lists the names.
    """
    from milepost.statistics import describe
    from milepost.values import decode

    with key.open_file(file) as reader:
        entry = _entry(reader, name)
        content = reader.read(name)
    facts: dict[str, Any] = {
        "file": str(file), "name": name, "kind": entry.kind, "dtype": entry.spec.dtype,
        "shape": list(entry.spec.shape), "nbytes": entry.nbytes, "text": None, "statistics": None, "values": None,
    }  # fmt: skip
    if entry.spec.dtype == "str":
        facts["text"] = decode_text(content, f"{file}, entry {name!r}")
        emit(facts) if as_json else _print(file, name, entry, facts["text"], None, None)
        return
    values = decode(content, entry.spec)
    part = None if text is None else _part(values, text)
    found = describe(values)
    if as_json:
        facts["statistics"] = plain(asdict(found))
        facts["values"] = None if part is None else plain(part.tolist())
        emit(facts)
    else:
        _print(file, name, entry, None, found, part)


def _entry(reader: OpenFile, name: str) -> Entry:
    known = [*reader.index.entries, *reader.index.aliases]
    if name in known:
        return reader.entry(name)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    raise SettingError(
        f"{reader.where}, entry {name!r}",
        found="no entry of this name",
        expected=f"one like {', '.join(near)}" if near else f"one of its {len(known)} names",
        remedy=f"To list them: milepost inspect --all {reader.where}",
    )


def _part(values: NDArray[np.generic], text: str) -> NDArray[np.generic]:
    import numpy as np

    matches = [_PART.fullmatch(part) for part in text.split(",")]
    try:
        return np.asarray(values[tuple(_index(match) for match in matches)])
    except (IndexError, TypeError, ValueError) as error:
        raise SettingError(
            "--slice",
            found=f"{text!r} ({error})" if None not in matches else repr(text),
            expected=f"whole numbers and ranges for the shape {shape(values.shape)}",
            remedy='Write it as in NumPy, e.g. --slice "0, :5".',
        ) from error


def _index(match: re.Match[str] | None) -> int | slice:
    if match is None:
        raise ValueError("neither a whole number nor a range")
    if match["index"] is not None:
        return int(match["index"])
    return slice(*(None if match[key] is None else int(match[key]) for key in ("start", "stop", "step")))


def _print(
    file: Path,
    name: str,
    entry: Entry,
    text: str | None,
    found: Statistics | None,
    part: NDArray[np.generic] | None,
) -> None:
    out = Screen()
    out.print(cell(name, "bold"))
    out.print(cell(f"{entry.kind} of {file}: {entry.spec.dtype}, {shape(entry.spec.shape)}, {size(entry.nbytes)}"))
    if text is not None:
        out.print()
        out.print(cell(text))
    if found is not None:
        _print_statistics(out, found)
    if part is not None:
        import numpy as np

        out.print()
        # What decode has widened is printed as widened: a bfloat16 has no repr of its own.
        out.print(np.array2string(part, max_line_width=out.width if out.is_terminal else 120, threshold=1000))


def _print_statistics(out: Screen, found: Statistics) -> None:
    rows = table("", ">")
    rows.show_header = False
    for label, value in (
        ("mean", found.mean), ("deviation", found.deviation), ("minimum", found.minimum), ("maximum", found.maximum),
        ("norm", found.norm),
    ):  # fmt: skip
        if value is not None:
            rows.add_row(cell(label, "dim"), figure(value))
    for label, count in (("values", found.count), ("zeros", found.zeros)):
        rows.add_row(cell(label, "dim"), f"{count:,}")
    for label, count in (("NaN", found.nans), ("infinite", found.infinities)):
        if count:
            rows.add_row(cell(label, "red"), cell(f"{count:,}", "red"))
    out.print()
    out.print(rows)
    if found.counts:
        out.print()
        bars = table(">from", ">to", ">values", "")
        most = max(found.counts)
        for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
            bars.add_row(figure(low), figure(high), f"{count:,}", cell(_bar(count / most), "cyan"))
        out.print(bars)


def _bar(share: float) -> str:
    """A bar in eighths of a column; what is more than nothing is seen."""
    eighths = max(1, round(share * _BAR * 8)) if share else 0
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
