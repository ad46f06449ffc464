"""Runs the suites, prints the report, and writes it where it is asked to."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import exporting, report, save_load, stall
from benchmarks.harness import Options, Section

SUITES: dict[str, Callable[[Options], Section]] = {
    "save_load": save_load.run,
    "tiny": save_load.run_tiny,
    "stall": stall.run,
    "exports": exporting.run,
}
"""Name to what makes a section; they run in this order."""

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the suites."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"of {', '.join(SUITES)}; by default all")
    parser.add_argument("--quick", action="store_true", help="small workloads and few rounds, to see that it works")
    parser.add_argument("--folder", type=Path, default=ROOT, help="on the disk that is meant (default: this one)")
    parser.add_argument("--json", type=Path, help="where to write every single time")
    parser.add_argument("--docs", type=Path, help="a Markdown file whose marked part is replaced by the report")
    given = parser.parse_args()
    unknown = set(given.suites) - set(SUITES)
    if unknown:
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=given.folder) as folder:
        sections = [SUITES[name](Options(Path(folder), given.quick)) for name in given.suites or SUITES]
    text = report.markdown(sections)
    print(text)
    if given.json is not None:
        given.json.write_text(report.as_json(sections))
    if given.docs is not None:
        report.put_into(given.docs, text)


if __name__ == "__main__":
    main()
