"""``tailrace list``: the models on this machine, of all stores."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tailrace.cli import console_output, model_words
from tailrace.cli.model_rows import ModelRow, RowMaker
from tailrace.errors import ConfigurationError
from tailrace.models.stores.all_stores import STORES, read_stores
from tailrace.models.stores.found_model import StoreContents, StoreName
from tailrace.settings import resolve

_HEADINGS = ("MODEL", "SIZE", "QUANT", "CONTEXT", "FITS", "KERNELS", "WORKS", "FAMILY", "PARAMS", "STORE")
_RIGHT = frozenset({"SIZE", "CONTEXT", "PARAMS"})
#: Columns between two of the table.
_GAP = 2


def list_models(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="Only models with this in their reference or family.")
    ] = None,
    store: Annotated[list[str] | None, typer.Option(help=f"Only of this store: {', '.join(STORES)}.")] = None,
    models_dir: Annotated[Path | None, typer.Option(help="A folder of models beside the stores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """List the models on this machine: of tailrace, the Hugging Face cache, Ollama, LM Studio and llama.cpp."""
    settings = resolve({"models_dir": str(models_dir) if models_dir else None}, file=config).settings
    contents = read_stores(settings.models_dir, stores=_stores(store))
    rows = RowMaker(settings).rows(model for each in contents for model in each.models)
    shown = [row for row in rows if pattern is None or _matches(row, pattern)]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(shown, enc_hook=str), indent=2).decode())
    elif shown:
        _show(console_output.stdout(), shown)
    elif rows:
        typer.echo(f"None of {len(rows)} models has {pattern!r} in its reference or family")
    else:
        _show_empty(contents)
    errors = console_output.stderr()
    for row in shown:
        if row.error is not None and not as_json:
            # An error begins with the file's path, which is the reference of a folder's models.
            named = "" if row.error.startswith(row.reference) else f"[red]{escape(row.reference)}[/red]: "
            errors.print(f"{named}{escape(row.error)}", soft_wrap=True)
    for each in contents:
        for problem in each.problems:
            errors.print(f"[yellow]{each.store}[/yellow]: {escape(problem)}", soft_wrap=True)


def _stores(named: list[str] | None) -> tuple[StoreName, ...]:
    chosen = tuple(store for store in STORES if named is None or store in named)
    unknown = sorted(set(named or ()) - set(STORES))
    if unknown:
        raise ConfigurationError(f"--store can't be {', '.join(unknown)}: name {', '.join(STORES)}")
    return chosen


def _matches(row: ModelRow, pattern: str) -> bool:
    texts = (row.reference, row.name, row.architecture, row.title, row.quantisation)
    return any(pattern.casefold() in text.casefold() for text in texts if text is not None)


def _show_empty(contents: list[StoreContents]) -> None:
    typer.echo("No models here. Fetch the starter model with: tailrace pull")
    typer.echo("Looked into:")
    for each in contents:
        typer.echo(f"  {each.store}: {each.folder}")


def _show(console: Console, rows: list[ModelRow]) -> None:
    """A table where it fits into the terminal, else two lines a model."""
    cells = [_cells(row) for row in rows]
    widths = [max(len(row[column]) for row in (_HEADINGS, *cells)) for column in range(len(_HEADINGS))]
    if sum(widths) + _GAP * (len(widths) - 1) > console.width:
        _show_lines(console, rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left", no_wrap=True)
    for row, texts in zip(rows, cells, strict=True):
        table.add_row(*(Text(text, style=_style(row)) for text in texts))
    console.print(table)


def _cells(row: ModelRow) -> tuple[str, ...]:
    if row.error is not None:
        return (row.reference, console_output.size(row.bytes), "unusable", "", "", "", "", "", "", row.store or "")
    return (
        row.reference,
        console_output.size(row.bytes),
        row.quantisation or "?",
        model_words.tokens(row.context),
        model_words.fit(row),
        row.kernels or "?",
        model_words.works(row),
        row.architecture or "?",
        model_words.count(row.parameters),
        row.store or "",
    )


def _style(row: ModelRow) -> str:
    return "red" if row.error is not None else "dim" if row.fits == "no" else ""


def _show_lines(console: Console, rows: list[ModelRow]) -> None:
    for row in rows:
        console.print(Text(row.reference, style=_style(row) or "bold"), soft_wrap=True)
        facts = Text(" · ".join(fact for fact in _line(row) if fact), style="dim")
        console.print(Padding(facts, (0, 0, 0, 2), expand=False))


def _line(row: ModelRow) -> tuple[str, ...]:
    """The second line's facts; some may be empty."""
    size, store = console_output.size(row.bytes), row.store or ""
    if row.error is not None:
        return size, "unusable", store
    return (
        size,
        row.quantisation or "?",
        f"{model_words.tokens(row.context)} context",
        {"yes": "fits", "no": "doesn't fit"}.get(row.fits or "", f"fits {model_words.fit(row)}"),
        {"yes": "own kernels", "partly": "own kernels partly"}.get(row.kernels or "", ""),
        model_words.works(row),
        row.architecture or "?",
        store,
    )
