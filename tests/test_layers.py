"""The rooms keep to the table in docs/architecture.md: who may import whom, and who does without torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "milepost"
DOOR = {"__init__", "_version"}
"""The door knows every room, and every room may know the version."""


def table() -> dict[str, tuple[set[str], bool]]:
    """Room -> what it may import, and whether it may use torch."""
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\| (yes|no) \|$", (ROOT / "docs/architecture.md").read_text(), re.M)
    return {room: (set(re.findall(r"`(\w+)`", allowed)), torch == "yes") for room, allowed, torch in rows}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides which room is meant"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in SOURCE.rglob("*.py") if room_of(path) not in DOOR)


def test_the_table_names_every_room_and_no_other():
    """A new room gets a row, a removed one loses it."""
    assert set(table()) == {room_of(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_what_the_table_allows(path):
    """A line knows its room by what it may not know."""
    room = room_of(path)
    allowed, may_use_torch = table()[room]
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "milepost" and rest[0] not in DOOR:
            assert rest[0] in allowed | {room}, f"{room} may not import {name}"
        assert may_use_torch or top != "torch", f"{room} may not import torch"


def test_the_table_has_no_circles():
    """Rooms build on each other in one direction."""
    allowed = {room: set(others) for room, (others, _) in table().items()}
    while leaves := {room for room, others in allowed.items() if not others & set(allowed)}:
        for room in leaves:
            del allowed[room]
    assert allowed == {}


def test_rooms_without_torch_import_where_torch_is_absent():
    """Not even indirectly is torch needed to look at files."""
    modules = [
        "milepost." + ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if not table()[room_of(path)][1]
    ]
    code = "import sys; sys.modules['torch'] = None\n" + "\n".join(f"import {module}" for module in modules)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
