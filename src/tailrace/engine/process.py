"""The engine process's entry: load the model, connect, run the loop, and again when the HTTP process comes back.

Started by the supervisor as ``python -m tailrace.engine.process`` with its orders on standard input. Exit status 78
means that the settings or the model can't work, anything else but 0 that the engine broke and may be started again.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import structlog

from tailrace import ipc
from tailrace.child import EXIT_CONFIGURATION, Start, read_start, settle_memory
from tailrace.engine.backend import Backend
from tailrace.engine.intake import Intake
from tailrace.engine.load import load_backend, make_loop
from tailrace.errors import ConfigurationError, ModelError
from tailrace.messages import PROTOCOL_VERSION, Hello, ToEngine
from tailrace.observe import logs

#: How long the engine looks for an HTTP process before it gives up: the supervisor restarts a dead one within seconds.
_CONNECT_SECONDS = 60.0


def main() -> None:
    """Run until told to stop."""
    start = read_start()
    settings = start.settings
    logs.configure("engine", level=settings.log_level, form=settings.log_format)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    log = structlog.get_logger()
    try:
        backend = load_backend(Path(start.model_path) if start.model_path is not None else None, start.settings)
    except (ModelError, ConfigurationError) as error:
        log.error("the model can't be served", error=str(error))
        sys.exit(EXIT_CONFIGURATION)
    settle_memory()
    while True:
        _serve(start, backend)
        log.debug("the HTTP process has gone; waiting for it")


def _serve(start: Start, backend: Backend) -> None:
    """One connection's life. Every sequence of it ends with it."""
    channel: ipc.Channel[ToEngine] = ipc.Channel(ipc.connect(Path(start.socket_path), _CONNECT_SECONDS), ToEngine)
    channel.send(Hello(protocol=PROTOCOL_VERSION, pid=os.getpid(), model=backend.info, vocabulary=backend.vocabulary))
    settings = start.settings
    backend.reset()
    loop = make_loop(backend, settings)
    intake = Intake(channel, backend, loop.inbox)
    intake.start()
    try:
        loop.run(channel.send)
    except OSError as error:
        structlog.get_logger().warning("connection to the HTTP process broke", error=str(error))
    finally:
        channel.close()
        intake.join()


if __name__ == "__main__":
    main()
