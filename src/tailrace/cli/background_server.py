"""Starts a server in the background and waits until it is ready, for ``serve --detach`` and ``launch``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TextIO

import typer

from tailrace.cli import log_tail
from tailrace.cli.served_models import ServedModels
from tailrace.cli.terminal import harmless
from tailrace.errors import ConfigurationError, TailraceError
from tailrace.machine.running_servers import ServerState, find_servers
from tailrace.observe.log_file import logs_folder, new_log
from tailrace.supervisor.background import BackgroundOrders, start_background

#: Seconds between two looks at the server that starts.
_LOOK_SECONDS = 0.05
#: Seconds within which a server records itself, long before its model is loaded.
_RECORD_SECONDS = 60.0
#: Lines of the log that tell why a server hasn't started.
_LAST_LINES = 15


class NotStarted(TailraceError):
    """The server ended before it was ready."""


def start(served: ServedModels) -> ServerState:
    """Start the server in the background, and return when it is ready. An interrupt meanwhile ends the server.

    Raises NotStarted with the log's last lines, and ConfigurationError where there can't be a log.
    """
    try:
        path, fd = new_log(served.specs[0].name, time.strftime("%Y%m%d-%H%M%S"))
    except OSError as error:
        raise ConfigurationError(
            f"a server in the background needs a log file in {logs_folder()}, which can't be written: "
            f"{error.strerror}; XDG_STATE_HOME chooses another folder"
        ) from error
    try:
        orders = BackgroundOrders(settings=served.settings, models=served.specs, log=str(path))
        process = start_background(orders, fd)
    finally:
        os.close(fd)
    try:
        return _wait(process, path)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(served.settings.drain_seconds)
        raise


def report(server: ServerState, file: TextIO | None = None) -> None:
    """Say where the server is, and how it is looked after."""
    port = server.port
    typer.echo(
        f"{', '.join(server.models[:3])} is served in the background on {server.url} (process {server.supervisor}).\n"
        f"Its log: {server.log}\n"
        f"tailrace logs -f {port} shows the log, tailrace stop {port} stops the server.",
        file=file,
    )


def _wait(process: subprocess.Popen[bytes], log: Path) -> ServerState:
    """The server's state once it is ready."""
    recorded_by = time.monotonic() + _RECORD_SECONDS
    while process.poll() is None:
        own = next((server for server in find_servers() if server.supervisor == process.pid), None)
        if own is not None and own.ready:
            return own
        if own is None and time.monotonic() > recorded_by:
            process.send_signal(signal.SIGTERM)  # Its record can't be written, as its log says.
        time.sleep(_LOOK_SECONDS)
    lines = "\n".join(f"  {harmless(line)}" for line in log_tail.last_lines(log, _LAST_LINES, log.stat().st_size))
    raise NotStarted(f"the server ended before it was ready; the last lines of its log, {log}:\n{lines}")
