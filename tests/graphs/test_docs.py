"""The table of operators in the documentation is that of the code."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_operators_is_current():
    """After a change of a table: `python docs/operators.py`."""
    written = runpy.run_path(str(DOCS / "operators.py"))["page"]()
    assert (DOCS / "export.md").read_text() == written
    assert "| `conv2d` | default, padding | default, padding |" in written
