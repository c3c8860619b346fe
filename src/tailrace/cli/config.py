"""``tailrace config``: the effective settings, and the origin of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tailrace.cli import console_output
from tailrace.cli.tuned_settings import resolve_tuned
from tailrace.settings import FIELDS, SECRETS, Resolved

config = typer.Typer(help="The effective settings.", no_args_is_help=True)


# A lone command would become the whole of its Typer, and `config show` an error.
@config.callback()
def group() -> None:
    """The effective settings."""


@config.command()
def show(
    file: Annotated[Path | None, typer.Option("--config", help="This settings file instead of the usual one.")] = None,
) -> None:
    """Show every setting with its value and where it comes from, and those of each model's table."""
    resolved = resolve_tuned({}, file=file)
    console = console_output.stdout()
    console.print(_table(resolved, FIELDS))
    for name, section in resolved.models.items():
        own = resolved.for_model(name)
        console.print(f"\n[bold]{escape(f'[models.{name}]')}[/bold]")
        console.print(_table(own, [field for field in FIELDS if field in section]))


def _table(resolved: Resolved, names: Sequence[str]) -> Table:
    """The settings with these names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("SETTING", "VALUE", "FROM"):
        table.add_column(heading, overflow="fold")
    for name in names:
        value, origin = getattr(resolved.settings, name), resolved.origins[name]
        style = "dim" if origin == "default" else "bold"
        table.add_row(name, escape(_shown(name, value)), origin, style=style)
    return table


def _shown(name: str, value: object) -> str:
    if value is None:
        return "not set"
    if name in SECRETS:
        return "set, not shown"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
