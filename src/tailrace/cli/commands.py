"""The commands: their names, in the order of the help, and the module of each, which is imported when it is needed.

``tailrace serve`` is the supervisor's process for as long as the server lives. It has no use for the other commands'
modules, and NumPy with them: 0.25 s at the start, and their memory from then on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import typer

from tailrace import __version__


@dataclass(frozen=True)
class Command:
    """Where a command is: the module in this package, and the name of its function or group there."""

    module: str
    name: str
    cls: str | None = None  #: the name of its class in that module, where it isn't Typer's own
    is_group: bool = False  #: it has commands of its own


COMMANDS = {
    "serve": Command("serve", "serve"),
    "ps": Command("ps", "ps"),
    "stop": Command("stop", "stop"),
    "logs": Command("logs", "show_logs"),
    "worker": Command("worker", "worker"),
    "run": Command("run", "run"),
    "chat": Command("chat", "chat"),
    "launch": Command("launch", "launch", cls="LaunchCommand"),
    "pull": Command("pull", "pull_model"),
    "rm": Command("rm", "remove_model"),
    "bench": Command("bench", "bench"),
    "check": Command("check", "check"),
    "doctor": Command("doctor", "doctor"),
    "top": Command("top", "top"),
    "convert": Command("convert", "convert"),
    "tune": Command("tune", "tune"),
    "metrics": Command("metrics", "metrics"),
    "list": Command("list", "list_models"),
    "show": Command("show", "show"),
    "cluster": Command("cluster", "cluster", is_group=True),
    "keys": Command("keys", "keys", is_group=True),
    "config": Command("config", "config", is_group=True),
}


def command_line(names: Iterable[str] = tuple(COMMANDS)) -> typer.Typer:
    """The ``tailrace`` command with these commands, which are imported. By default all."""
    app = typer.Typer(
        name="tailrace",
        no_args_is_help=True,
        rich_markup_mode=None,  # The square brackets around defaults in the helps are meant as such.
        pretty_exceptions_enable=False,  # A defect's traceback is for a report: plain text, no local values (secrets).
    )
    app.callback()(_options)
    for name in names:
        command = COMMANDS[name]
        module = import_module(f"tailrace.cli.{command.module}")
        what = getattr(module, command.name)
        if command.is_group:
            app.add_typer(what, name=name)
        else:
            app.command(name, cls=getattr(module, command.cls) if command.cls else None)(what)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tailrace {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve GGUF language models over the APIs that clients already speak."""
