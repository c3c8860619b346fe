"""Which of the user's running servers a command means: a process id, a port, or the name of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from tailrace.errors import ConfigurationError
from tailrace.machine.running_servers import ServerState, find_servers


def choose(word: str | None, servers: Sequence[ServerState]) -> ServerState:
    """The server that ``word`` names; without a word the only one there is. Raises ConfigurationError."""
    if not servers:
        raise ConfigurationError("no server of yours runs; start one with: tailrace serve --detach")
    if word is None:
        if len(servers) > 1:
            raise ConfigurationError(f"several servers of yours run: name one of {_named(servers)}")
        return servers[0]
    found = [server for server in servers if word in _words(server)]
    if not found:
        raise ConfigurationError(f"no server of yours is {word!r}; there are {_named(servers)}")
    if len(found) > 1:
        raise ConfigurationError(f"{word!r} names several servers: give the port or process id of {_named(found)}")
    return found[0]


def complete(beginning: str) -> list[str]:
    """The names, ports and process ids that begin so, for the shell's completion."""
    words = {word for server in find_servers() for word in _words(server)}
    return sorted(word for word in words if word.startswith(beginning))


#: The argument of commands that act on one server.
Server = Annotated[
    str | None,
    typer.Argument(
        metavar="[SERVER]",
        help="Its port, process id, or the name of its model. [default: the only one]",
        autocompletion=complete,
    ),
]


def complete_model(beginning: str) -> list[str]:
    """The names of served models that begin so."""
    return sorted(name for server in find_servers() for name in server.models if name.startswith(beginning))


def _words(server: ServerState) -> tuple[str, ...]:
    return (str(server.port), str(server.supervisor), *server.models)


def _named(servers: Sequence[ServerState]) -> str:
    return "; ".join(
        f"port {server.port} (process {server.supervisor}, {', '.join(server.models[:3])})" for server in servers
    )
