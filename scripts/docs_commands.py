"""The reference of the command line in docs/options.md, made of the commands' own help."""

from __future__ import annotations

import re
from typing import Any

import typer

from tailrace.cli.commands import command_line


def commands_reference() -> str:
    """A section for each command, in the order of ``tailrace --help``."""
    group: Any = typer.main.get_command(command_line())
    return "\n\n".join(section for name, command in group.commands.items() for section in _sections(name, command))


def _sections(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [part for child, inner in command.commands.items() for part in _sections(f"{name} {child}", inner)]
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
    usage = " ".join(["tailrace", name, *(_argument(argument) for argument in arguments)])
    parts = [f"## tailrace {name}", f"```console\n$ {usage}\n```", _text(command.help or "")]
    rows = [(f"`{_argument(argument)}`", argument.help) for argument in arguments]
    rows += [(_option(parameter), parameter.help) for parameter in shown if parameter.param_type_name == "option"]
    if rows:
        lines = [f"| {names} | {_text(meaning or '')} |" for names, meaning in rows]
        parts.append("\n".join(["| argument or option | meaning |", "|---|---|", *lines]))
    return ["\n\n".join(part for part in parts if part)]


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _option(parameter: Any) -> str:
    return ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])


def _text(text: str) -> str:
    """A help's text as Markdown in one table cell or paragraph."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))
    return "\n\n".join(re.sub(r"([|<*])", r"\\\1", paragraph) for paragraph in paragraphs)
