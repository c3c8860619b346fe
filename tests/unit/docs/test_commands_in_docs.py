"""Commands that the documents show exist, with the options that they are shown with."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from docs_links import ROOT, documents
from tailrace.cli.commands import command_line

#: The last command of a line in code, to the end of the code, a pipe, or a comment. ``-u tailrace`` is a user.
_COMMAND = re.compile(r"(?:^[$#] (?:.* )?|(?<!`)`)(?:[\w./]*bin/)?(?<!-u )tailrace ([a-z][^`|#&;\n]*)", re.MULTILINE)
#: Words that stand for any command.
_ANY = {"COMMAND"}


@functools.cache
def _commands() -> Any:
    return typer.main.get_command(command_line())


def shown_commands(document: Path) -> Iterator[str]:
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    yield from (match.group(1).strip() for match in _COMMAND.finditer(text))


def complaint(command: str) -> str | None:
    """What of a command line doesn't exist."""
    found = _commands()
    words = command.split()
    while hasattr(found, "commands"):
        name = words.pop(0) if words else ""
        if name in _ANY or name.startswith("-"):
            return None
        if name not in found.commands:
            return None if not name and found.name != "tailrace" else f"there is no command {name!r}"
        found = found.commands[name]
    options = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options | {"--help"}]
    return f"`tailrace {command}` has no {', '.join(unknown)}" if unknown else None


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shown_command_exists(document: Path) -> None:
    assert [said for command in shown_commands(document) if (said := complaint(command))] == []


def test_commands_that_do_not_exist_are_found() -> None:
    assert complaint("serve MODEL --ctx 32768 --alias=a") is None
    assert complaint("serv MODEL") == "there is no command 'serv'"
    assert complaint("serve --contexts 4") == "`tailrace serve --contexts 4` has no --contexts"
    assert complaint("keys make alice") == "there is no command 'make'"


def test_commands_are_found_in_code(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "```console\n$ tailrace top --once   # a screen\n$ cat a | .venv/bin/tailrace run -p x\n"
        "$ K=1 tailrace serve \\\n    --port 1\n```\n"
        "`tailrace list` and `.venv/bin/tailrace show M`, not tailrace serves.\n",
        encoding="utf-8",
    )
    assert [" ".join(command.split()) for command in shown_commands(document)] == [
        "top --once",
        "run -p x",
        "serve --port 1",
        "list",
        "show M",
    ]
