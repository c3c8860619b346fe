"""``tailrace keys``: make, list and revoke the server's named API keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from tailrace.cli import console_output
from tailrace.server.keys.duration import expiry
from tailrace.server.keys.keys_file import KeyRecord, KeysFile, check_name, keys_path, new_key, now
from tailrace.server.keys.postgres_keys import PostgresKeys
from tailrace.server.postgres.address import check_address
from tailrace.settings import resolve

keys = typer.Typer(help="The server's named API keys.", no_args_is_help=True)

_File = Annotated[Path | None, typer.Option("--file", help="Keys file [the setting keys_file].")]
_Config = Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")]
_TOOK_EFFECT = "Running servers notice it within a second of their next request; SIGHUP makes them look at once."


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One key as ``--json`` shows it."""

    name: str
    created: datetime
    expires: datetime | None
    expired: bool
    concurrency: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    tokens_today: int
    models: tuple[str, ...]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Letters, digits, dots, dashes and underscores.")],
    expires: Annotated[str | None, typer.Option(help="90m, 12h, 30d, 2w, 1y or 2030-01-31 [never].")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests at the same time [any].")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Of prompts and replies [any].")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="The same in a day of UTC [any].")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use, such as 'qwen*'; may repeat [all].")
    ] = None,
    file: _File = None,
    config: _Config = None,
) -> None:
    """Make a key and show it: this once, for the file has only its hash. Standard output has the key alone."""
    check_name(name)
    created = now()
    key, record = new_key(
        KeyRecord(
            name=name,
            id="",
            sha256="",
            created=created,
            expires=None if expires is None else expiry(expires, created),
            concurrency=concurrency,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
            models=tuple(model or ()),
        )
    )
    known = _known(file, config)
    is_first = known.add(record)
    console = console_output.stderr()
    console.print(f"The key [bold]{escape(name)}[/bold], shown this once:\n", soft_wrap=True)
    typer.echo(key)
    ends = "" if record.expires is None else f" It expires on {record.expires:%Y-%m-%d %H:%M} UTC."
    console.print(f"\nIts hash is in {escape(known.place)}.{ends} {_TOOK_EFFECT}", soft_wrap=True)
    if is_first and isinstance(known, KeysFile):
        console.print(
            "[yellow]The file is new: with it, every request to a server needs a key.[/yellow]", soft_wrap=True
        )


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array instead of a table.")] = False,
    file: _File = None,
    config: _Config = None,
) -> None:
    """List the keys with their limits and what they have used today."""
    known = _known(file, config)
    records = known.read()
    rows = _rows(records or [], known.used_today())
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
        return
    if not rows:
        what = "No keys file" if records is None else "No keys"
        typer.echo(f"{what}: {known.place}. Make a key with: tailrace keys create NAME")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("NAME", "CREATED", "EXPIRES", "CONCURRENT", "TOKENS/MINUTE", "TOKENS/DAY", "TODAY", "MODELS"):
        right = heading not in {"NAME", "CREATED", "EXPIRES", "MODELS"}
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        expires = "never" if row.expires is None else f"{row.expires:%Y-%m-%d %H:%M}"
        table.add_row(
            escape(row.name),
            f"{row.created:%Y-%m-%d}",
            f"[red]{expires} (expired)[/red]" if row.expired else expires,
            _limit(row.concurrency),
            _limit(row.tokens_per_minute),
            _limit(row.tokens_per_day),
            f"{row.tokens_today:,}",
            escape(", ".join(row.models) or "all"),
        )
    console_output.stdout().print(table)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")], file: _File = None, config: _Config = None
) -> None:
    """Revoke a key: servers refuse it from then on. Its running replies go on; what it stored is out of reach."""
    known = _known(file, config)
    left = known.remove(name)
    console = console_output.stderr()
    console.print(f"The key [bold]{escape(name)}[/bold] is revoked. {_TOOK_EFFECT}", soft_wrap=True)
    if not left:
        is_file = isinstance(known, KeysFile)
        ending = f"delete {escape(known.place)}" if is_file else "leave the setting keys_store out"
        console.print(
            f"[yellow]No key is left: servers refuse every request without the setting api_key. "
            f"To serve without keys, {ending} and restart.[/yellow]",
            soft_wrap=True,
        )


def _known(file: Path | None, config: Path | None) -> KeysFile | PostgresKeys:
    """The keys that the command is about."""
    if file is not None:
        return KeysFile(file.expanduser())
    settings = resolve({}, file=config).settings
    if settings.keys_store is None:
        return KeysFile(keys_path(settings.keys_file))
    check_address("keys_store", settings.keys_store)
    return PostgresKeys(settings.keys_store)


def _rows(records: list[KeyRecord], used: Mapping[str, int]) -> list[Row]:
    at = now()
    return [
        Row(
            name=record.name,
            created=record.created,
            expires=record.expires,
            expired=record.expires is not None and record.expires <= at,
            concurrency=record.concurrency,
            tokens_per_minute=record.tokens_per_minute,
            tokens_per_day=record.tokens_per_day,
            tokens_today=used.get(record.id, 0),
            models=record.models,
        )
        for record in records
    ]


def _limit(value: int | None) -> str:
    return "any" if value is None else f"{value:,}"
