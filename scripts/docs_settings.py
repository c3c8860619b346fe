"""The table of settings in docs/settings.md: what the code knows of each setting, and its meaning as the page has it.

Owns name, flags, default and values of a row. The meaning is written by hand in the page and kept as it is.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args, get_origin

import msgspec
import typer
from msgspec import Meta

from tailrace.cli.commands import command_line
from tailrace.settings import Settings

_HEAD = ["| setting, flag | default | values | what it is |", "|---|---|---|---|"]
_ROW = re.compile(r"^\| `(\w+)`(.*)$", re.MULTILINE)
#: Cells are divided by pipes, and a pipe within a cell has a backslash before it.
_CELL_END = re.compile(r"(?<!\\)\|")


def settings_table(old: str) -> str:
    """The table, with the meanings that ``old`` has. Raises ValueError for a setting that has none there."""
    meanings = {name: _CELL_END.split(rest.rstrip().removesuffix("|"))[-1].strip() for name, rest in _ROW.findall(old)}
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    missing = sorted(fields.keys() - meanings.keys())
    if missing:
        raise ValueError(f"docs/settings.md lacks {', '.join(missing)}: add a row `| `NAME` | its meaning |`")
    flags = _flags()
    # A setting keeps its place in the page, where related ones stand together.
    return "\n".join(
        _HEAD + [_row(fields[name], flags.get(name, []), meanings[name]) for name in meanings if name in fields]
    )


def _row(field: msgspec.structs.FieldInfo, flags: list[str], meaning: str) -> str:
    name = f"`{field.name}`" + ("<br>" + ", ".join(f"`{flag}`" for flag in flags) if flags else "")
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return f"| {name} | {_shown(default)} | {_values(field.type)} | {meaning} |"


def _flags() -> dict[str, list[str]]:
    """The flags of ``tailrace serve`` by setting."""
    command: Any = typer.main.get_command(command_line())
    parameters = command.commands["serve"].params
    return {
        parameter.name: parameter.opts
        for parameter in parameters
        if parameter.param_type_name == "option" and not parameter.hidden
    }


def _shown(default: object) -> str:
    if default is None:
        return "not set"
    if default in ((), {}):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(f"`{value}`" for value in default)
    return (
        f"`{default}`" if isinstance(default, str) else f"{default:g}" if isinstance(default, float) else str(default)
    )


def _values(kind: Any) -> str:
    """The values that a setting may have: a choice, a range, or its type."""
    bounds = None
    while get_origin(kind) is not None or not isinstance(kind, type):
        arguments = get_args(kind)
        if get_origin(kind) is Literal:
            return ", ".join(f"`{value}`" for value in arguments)
        if get_origin(kind) is tuple:
            return "list"
        if get_origin(kind) is dict:
            return "table"
        if isinstance(arguments[-1], Meta):
            bounds, kind = arguments[-1], arguments[0]
        else:  # an optional value
            kind = next(argument for argument in arguments if argument is not type(None))
    if bounds is not None and bounds.le is not None:
        above = "over " if bounds.ge is None else ""
        return f"{above}{_number(bounds.ge if bounds.ge is not None else bounds.gt)} to {_number(bounds.le)}"
    return {bool: "true, false", str: "text"}[kind]


def _number(value: float | None) -> str:
    assert value is not None
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
