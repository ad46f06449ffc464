"""Rewrites the table of operators in docs/export.md from the tables in the code: `python docs/operators.py`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from milepost.graphs.geir.operators import elementwise, images, products, reductions, shapes
from milepost.graphs.mindir import operators as mindir

PAGE = Path(__file__).with_name("export.md")
BEGIN, END = "<!-- begin: written by docs/operators.py -->\n", "<!-- end: written by docs/operators.py -->\n"
FAMILIES = {
    "images": (images.TABLE, mindir.images.TABLE),
    "products": (products.TABLE, mindir.products.TABLE),
    "elementwise": (elementwise.TABLE, mindir.elementwise.TABLE),
    "reductions": (reductions.TABLE, mindir.reductions.TABLE),
    "shapes": (shapes.TABLE, mindir.shapes.TABLE),
}
"""Family -> the tables of GEIR and of MindIR."""


def table() -> str:
    """The lines of the table: an operator, with the overloads that each format takes."""
    lines = ["| torch's operator | GEIR | MindIR |", "|---|---|---|"]
    for family, tables in FAMILIES.items():
        lines.append(f"| *{family}* | | |")
        overloads = [_overloads(table) for table in tables]
        lines += [_row(name, overloads) for name in sorted(overloads[0].keys() | overloads[1].keys())]
    return "\n".join(lines) + "\n"


def _row(name: str, overloads: list[dict[str, list[str]]]) -> str:
    return f"| `{name}` | " + " | ".join(", ".join(found.get(name, ["-"])) for found in overloads) + " |"


def _overloads(table: dict[str, object]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for operator in sorted(table):
        name, _, overload = operator.rpartition(".")
        found[name].append(overload)
    return dict(found)


def page() -> str:
    """The page with its table up to date."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page())
