"""docs/cli.md has a section for each command, and its sessions are what the commands print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from milepost.cli.app import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "cli.md").read_text()


def prompts(page: str) -> list[str]:
    return re.findall(r"^\$ .*", page, re.M)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_section_a_session_and_a_schema(command):
    """A new one cannot be forgotten."""
    assert f"\n## {command}\n" in PAGE
    assert f"](#{command})" in PAGE
    assert any(line.startswith(f"$ milepost {command} ") for line in prompts(PAGE))
    jsonschema.Draft202012Validator.check_schema(json.loads((DOCS / f"schemas/{command}.json").read_text()))


def test_what_is_recorded_is_no_failure():
    """No traceback, and no command that this version does not have."""
    assert "Traceback" not in PAGE
    assert "No such" not in PAGE


def test_the_json_on_the_page_is_of_its_schema():
    """Readers take it for the truth."""
    found = re.findall(r"^\$ milepost (\w+) [^\n]*--json\n(\{.*?^\})", PAGE, re.M | re.S)
    assert found
    for command, text in found:
        jsonschema.validate(json.loads(text), json.loads((DOCS / f"schemas/{command}.json").read_text()))


@pytest.mark.slow
def test_the_sessions_can_be_recorded_again(told_twice, tmp_path):
    """On the demo's files, with the same commands, each of which prints something."""
    page = tmp_path / "cli.md"
    page.write_text(PAGE)
    command = [sys.executable, DOCS / "record_cli.py", told_twice[0], "--page", page]
    subprocess.run(command, check=True, timeout=600)
    again = page.read_text()
    assert prompts(again) == prompts(PAGE)
    assert "Traceback" not in again
    assert again.count("\n") == pytest.approx(PAGE.count("\n"), rel=0.1)
