"""``tailrace logs``: the log of a server in the background."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli import log_tail, server_choice
from tailrace.cli.terminal import harmless
from tailrace.errors import ConfigurationError
from tailrace.machine.running_servers import ServerState, find_servers, is_running
from tailrace.observe.log_file import log_files


def show_logs(
    name: server_choice.Server = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Show so many of the last lines.")] = 100,
) -> None:
    """Show the log of a server that runs in the background; without a running one, that of the last one."""
    server, path = _log(name, find_servers())
    start = path.stat().st_size
    try:
        for line in log_tail.last_lines(path, lines, start):
            _write(f"{line}\n")
        if follow and server is not None:
            for text in log_tail.follow(path, start, lambda: is_running(server)):
                _write(text)
            print("The server has ended.", file=sys.stderr)
    except BrokenPipeError:
        # The reader has seen enough. Python would complain about it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        pass


def _log(name: str | None, servers: list[ServerState]) -> tuple[ServerState | None, Path]:
    """The server, if it runs, and its log file. Raises ConfigurationError."""
    if not servers and name is None and (ended := log_files()):
        print(f"No server of yours runs. The log of the last one: {ended[-1]}", file=sys.stderr)
        return None, ended[-1]
    server = server_choice.choose(name, servers)
    if server.log is None:
        raise ConfigurationError(
            f"the server on port {server.port} wasn't started with --detach: its log is in its terminal, or where its "
            "standard error goes (a service's: journalctl)"
        )
    path = Path(server.log)
    if not path.exists():
        raise ConfigurationError(f"the log of the server on port {server.port} was deleted: {path}")
    return server, path


def _write(text: str) -> None:
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
