"""``tailrace stop``: stop servers of this user on this machine."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from tailrace.cli import server_choice
from tailrace.errors import ConfigurationError, TailraceError
from tailrace.machine.running_servers import ServerState, find_servers, is_running

_LOOK_SECONDS = 0.05
#: Seconds between two signals that ask for haste.
_AGAIN_SECONDS = 0.3
#: Seconds after which ``--now`` kills a server that doesn't end by itself.
_KILL_SECONDS = 10.0


def stop(
    name: server_choice.Server = None,
    every: Annotated[bool, typer.Option("--all", help="All servers of yours.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Break off running replies.")] = False,
) -> None:
    """Stop a server of yours on this machine, and wait for its end. Running replies finish first, within drain_seconds.

    Ctrl-C ends the waiting; the server goes on stopping.
    """
    servers = find_servers()
    if every and name is not None:
        raise ConfigurationError("name a server, or give --all: not both")
    if every and not servers:
        typer.echo("No server of yours runs.")
        return
    chosen = servers if every else [server_choice.choose(name, servers)]
    for server in chosen:
        _signal(server, signal.SIGTERM)
    for server in chosen:
        _wait(server, now=now)
        typer.echo(f"Stopped {', '.join(server.models[:3])} on port {server.port} (process {server.supervisor}).")


def stop_server(server: ServerState) -> None:
    """Stop one server, and return when it has ended. Raises TailraceError."""
    _signal(server, signal.SIGTERM)
    _wait(server, now=False)


def _wait(server: ServerState, *, now: bool) -> None:
    """Return when the server has ended; with ``now`` ask for haste until then."""
    began = time.monotonic()
    hurry_at = began + _AGAIN_SECONDS
    try:
        while is_running(server):
            time.sleep(_LOOK_SECONDS)
            if now and time.monotonic() >= hurry_at:
                hurry_at += _AGAIN_SECONDS
                late = time.monotonic() - began > _KILL_SECONDS
                # Its children end with the supervisor, however that ends.
                _signal(server, signal.SIGKILL if late else signal.SIGTERM)
    except KeyboardInterrupt:
        typer.echo(f"The server on port {server.port} goes on stopping; --now breaks off its replies.", err=True)
        raise typer.Exit(130) from None


def _signal(server: ServerState, number: signal.Signals) -> None:
    """Send the signal to this server and to no other process. Raises TailraceError."""
    try:
        if not hasattr(os, "pidfd_open"):
            if is_running(server):
                os.kill(server.supervisor, number)
            return
        # The descriptor is one process's, whose identity is checked after it was opened: no later one gets the signal.
        fd = os.pidfd_open(server.supervisor)
        try:
            if is_running(server):
                signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
    except ProcessLookupError:
        return  # It has ended meanwhile.
    except OSError as error:
        raise TailraceError(f"the server on port {server.port} can't be stopped: {error.strerror}") from error
