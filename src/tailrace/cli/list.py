"""``tailrace list``: the models in the local store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from tailrace.cli import console_output
from tailrace.errors import ModelError
from tailrace.models.model_header import read_facts
from tailrace.models.store import Store, StoredModel


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One model as ``--json`` shows it. ``error`` is set, and the facts are None, when its file can't be read."""

    name: str
    path: Path
    bytes: int
    architecture: str | None = None
    parameters: int | None = None
    quantisation: str | None = None
    context: int | None = None
    chat_template: bool | None = None
    error: str | None = None


def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
) -> None:
    """List the models in the local store."""
    store = Store()
    rows = [_row(model) for model in store.models()]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows, enc_hook=str), indent=2).decode())
        return
    if not rows:
        typer.echo(f"No models in {store.folder}. Fetch the starter model with: tailrace pull")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "ARCHITECTURE", "PARAMETERS", "QUANTISATION", "SIZE", "CONTEXT", "PATH"):
        right = heading in {"PARAMETERS", "SIZE", "CONTEXT"}
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        if row.error is not None:
            table.add_row(row.name, "[red]unreadable[/red]", "", "", console_output.size(row.bytes), "", str(row.path))
            continue
        table.add_row(
            row.name,
            row.architecture,
            _count(row.parameters or 0),
            row.quantisation or "?",
            console_output.size(row.bytes),
            str(row.context or "?"),
            str(row.path),
        )
    console_output.stdout().print(table)
    for row in rows:
        if row.error is not None:
            console_output.stderr().print(f"[red]{row.name}[/red]: {row.error}", soft_wrap=True)


def _row(model: StoredModel) -> Row:
    # One broken file must not hide the others.
    try:
        facts = read_facts(model.path)
    except ModelError as error:
        return Row(name=model.name, path=model.path, bytes=model.bytes, error=str(error))
    return Row(
        name=model.name,
        path=model.path,
        bytes=model.bytes,
        architecture=facts.architecture,
        parameters=facts.parameters,
        quantisation=facts.quantisation,
        context=facts.context,
        chat_template=facts.chat_template,
    )


def _count(parameters: int) -> str:
    """Parameters as people say them: ``135M``, ``1.2B``."""
    if parameters >= 999_500_000:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.0f}M"
