"""The ``tailrace`` command's entry: runs a command, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys

from rich.markup import escape

from tailrace.cli import console_output
from tailrace.cli.commands import COMMANDS, command_line
from tailrace.errors import ConfigurationError, TailraceError

#: Exit codes: a setting that the user has to correct, as with wrong flags, and everything else that failed.
CONFIGURATION_EXIT = 2
FAILURE_EXIT = 1


def main() -> None:
    """Run the command line and exit: 0, 1 for a failure, 2 for wrong flags or settings."""
    named = sys.argv[1] if len(sys.argv) > 1 else ""
    # Help, completion and a name that isn't known need all commands.
    app = command_line([named]) if named in COMMANDS else command_line()
    try:
        app()
    except TailraceError as error:
        console_output.stderr().print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(CONFIGURATION_EXIT if isinstance(error, ConfigurationError) else FAILURE_EXIT)


if __name__ == "__main__":
    main()
