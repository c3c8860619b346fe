"""The ``tailrace`` command: registers the verbs, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from tailrace import __version__
from tailrace.cli import console_output
from tailrace.cli.bench import bench
from tailrace.cli.chat import chat
from tailrace.cli.check import check
from tailrace.cli.config import config
from tailrace.cli.convert import convert
from tailrace.cli.doctor import doctor
from tailrace.cli.keys import keys
from tailrace.cli.launch import LaunchCommand, launch
from tailrace.cli.list import list_models
from tailrace.cli.logs import show_logs
from tailrace.cli.metrics import metrics
from tailrace.cli.ps import ps
from tailrace.cli.pull import pull_model
from tailrace.cli.rm import remove_model
from tailrace.cli.run import run
from tailrace.cli.serve import serve
from tailrace.cli.show import show
from tailrace.cli.stop import stop
from tailrace.cli.top import top
from tailrace.cli.tune import tune
from tailrace.errors import ConfigurationError, TailraceError

#: Exit codes: a setting that the user has to correct, as with wrong flags, and everything else that failed.
CONFIGURATION_EXIT = 2
FAILURE_EXIT = 1

app = typer.Typer(
    name="tailrace",
    no_args_is_help=True,
    rich_markup_mode=None,  # The square brackets around defaults in the helps are meant as such.
    pretty_exceptions_enable=False,  # A defect's traceback is for a report: plain text, and no local values (secrets).
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tailrace {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Serve GGUF language models over the APIs that clients already speak."""


app.command()(serve)
app.command()(ps)
app.command()(stop)
app.command("logs")(show_logs)
app.command()(run)
app.command()(chat)
app.command(cls=LaunchCommand)(launch)
app.command("pull")(pull_model)
app.command("rm")(remove_model)
app.command()(bench)
app.command()(check)
app.command()(doctor)
app.command()(top)
app.command()(convert)
app.command()(tune)
app.command()(metrics)
app.command("list")(list_models)
app.command()(show)
app.add_typer(keys, name="keys")
app.add_typer(config, name="config")


def main() -> None:
    """Run the command line and exit: 0, 1 for a failure, 2 for wrong flags or settings."""
    try:
        app()
    except TailraceError as error:
        console_output.stderr().print(f"[bold red]error:[/bold red] {escape(str(error))}", soft_wrap=True)
        sys.exit(CONFIGURATION_EXIT if isinstance(error, ConfigurationError) else FAILURE_EXIT)
