"""The group of commands, and the one place where errors become a line and an exit code. No command is here."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

import click

from milepost._version import __version__
from milepost.cli.output import DONE, INTERRUPTED, PIPE_CLOSED, REFUSED, clean
from milepost.errors import MilepostError

COMMANDS = ("ls", "inspect", "show", "verify", "diff", "convert", "average", "export", "prune")
"""In the order of the help; each is `command` of the module of its name."""


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, or None if there is no such."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"milepost.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; the reader of a pipe may have enough before everything is printed."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # What is still buffered goes nowhere, or Python would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(PIPE_CLOSED) from None
        return result


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="milepost")
def commands() -> None:
    """Look at, check, compare, convert and clean up checkpoints.

    Exit codes: 0 done; 1 damage was found (verify), or a difference (diff); 2 wrong usage, or something that cannot be
    read or written. Each command has --json for programs.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` and return the exit code; every error that is foreseen is one line."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        warnings.simplefilter("default", UserWarning)
        try:
            result = commands.main(list(arguments), prog_name="milepost", standalone_mode=False)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return REFUSED
        except click.ClickException as error:
            _tell(_usage(error))
            return REFUSED
        except MilepostError as error:
            _tell(str(error))
            return REFUSED
        except (click.Abort, KeyboardInterrupt):
            return INTERRUPTED
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            _tell(f"{place}{error.strerror or error}. Check the path and the rights of this user.")
            return REFUSED
    return result if isinstance(result, int) else DONE


def _usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    help_of = f" See: {context.command_path} --help" if context else ""
    return f"{error.format_message()}{help_of}"


def _tell(message: str) -> None:
    click.echo(f"milepost: {clean(' '.join(message.split()))}", err=True)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,  # noqa: ARG001 (the signature of warnings.showwarning)
    lineno: int,  # noqa: ARG001
    file: TextIO | None = None,  # noqa: ARG001
    line: str | None = None,  # noqa: ARG001
) -> None:
    if issubclass(category, UserWarning):
        _tell(f"warning: {message}")
