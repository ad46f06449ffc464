"""Sections into one JSON file and one Markdown text, and that into the documentation, between two marks."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import Section

BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end: written by make bench -->"
PACKAGES = ("milepost", "torch", "safetensors", "numpy", "xxhash")


def markdown(sections: Sequence[Section]) -> str:
    """The whole report: where, when, the targets, the tables."""
    parts = [_where(), "| what | at most | measured | met |\n|---|---|---|---|"]
    parts[-1] += "".join(f"\n{target.markdown()}" for section in sections for target in section.targets)
    for section in sections:
        parts.append(f"## {section.title}")
        parts.extend(filter(None, [section.notes]))
        parts.extend(table.markdown().rstrip() for table in section.tables)
    return "\n\n".join(parts) + "\n"


def as_json(sections: Sequence[Section]) -> str:
    """The same, with every single time."""
    facts = {"machine": machine(), "packages": packages(), "time": time.time()}
    return json.dumps({**facts, "sections": [asdict(section) for section in sections]}, indent=1) + "\n"


def put_into(path: Path, text: str) -> None:
    """Replace what stands between the two marks."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{path}: the marks {BEGIN} and {END} are not there")
    path.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _where() -> str:
    return f"{time.strftime('%Y-%m-%d')}, {machine()}; " + ", ".join(
        f"{name} {is_}" for name, is_ in packages().items()
    )


def packages() -> dict[str, str]:
    """What was measured, by version."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Processor, cores, memory, system, in words."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB of memory, Linux {platform.release().split('-')[0]}"
