"""The command line: each command parses, calls another room, and prints. Nothing is computed here.

`app` has the group and turns errors into lines and exit codes; `output` prints; every other file is a command.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from milepost.errors import MissingExtraError


def main() -> NoReturn:
    """Run the command line of this process, and end it."""
    try:
        from milepost.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(f"milepost: {MissingExtraError.of('the command line', extra='cli', missing=error.name)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
