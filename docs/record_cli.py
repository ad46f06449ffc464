"""Records the terminal sessions of docs/cli.md anew: ``python docs/record_cli.py FOLDER``, with the demo's files there.

Each block that begins with ```console`` holds commands, after ``$``, and below each what it printed. The commands are
run on a terminal of 100 columns, in a folder of their own with copies of the demo's files as ``runs``.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")
BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
COLUMNS = 100
MOST_LINES = 40
"""Of what a command prints; the rest is told by its number of lines."""


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the demo saved: runs/demo")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to rewrite (default: %(default)s)")
    arguments = parser.parse_args()
    page = arguments.page.read_text()
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(arguments.folder, Path(place, "runs"))
        arguments.page.write_text(BLOCK.sub(lambda block: record(block[0], Path(place)), page))


def record(block: str, place: Path) -> str:
    """Run the commands of a block, and return it with what they print now."""
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"$ {command}\n{shortened(run(command, place))}" for command in commands)


def run(command: str, place: Path) -> str:
    """Run a command on a terminal without colours, and return what is on the screen at its end."""
    terminal, end = pty.openpty()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ, "COLUMNS": str(COLUMNS), "TERM": "dumb", "NO_COLOR": "1", "PATH": path,
    }  # fmt: skip
    program = f'milepost() {{ {sys.executable} -m milepost "$@"; }}; {command}'
    child = subprocess.Popen(["bash", "-c", program], cwd=place, stdout=end, stderr=end, stdin=end, env=environment)
    os.close(end)
    output = b""
    while block := read(terminal):
        output += block
    os.close(terminal)
    child.wait()
    return output.decode().replace("\r\n", "\n")


def read(terminal: int) -> bytes:
    """Read what is there; at its end a terminal is an error on Linux."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def shortened(text: str) -> str:
    """The first lines, without blanks at their ends."""
    lines = [line.rstrip() for line in text.splitlines()]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES + 2
        lines = [*lines[: MOST_LINES - 2], f"... ({rest} more lines)"]
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main()
