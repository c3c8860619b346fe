"""A server in the background: the entry of its process, and the orders that it gets on standard input (JSON).

Orders aren't arguments, because keys are in them. The process has no terminal: it leads a session of its own, its
input is empty, and what it prints goes into its log file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import structlog

from tailrace.errors import TailraceError
from tailrace.observe import log_writer, logs
from tailrace.observe.log_file import LogFile
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.supervisor.child_process import orders_file
from tailrace.supervisor.supervisor import Supervisor


class BackgroundOrders(msgspec.Struct, frozen=True, kw_only=True):
    """What the server serves, and where its log is."""

    settings: Settings
    models: tuple[ModelSpec, ...]
    log: str


def start_background(orders: BackgroundOrders, log_fd: int) -> subprocess.Popen[bytes]:
    """Start a server in the background, whose output goes to ``log_fd``. Raises OSError."""
    with orders_file(msgspec.json.encode(orders)) as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tailrace.supervisor.background"],
            stdin=file,
            stdout=log_fd,
            stderr=log_fd,
            start_new_session=True,
        )


def main() -> int:
    """Serve as the orders say, until a signal; the exit status."""
    orders = msgspec.json.decode(sys.stdin.buffer.read(), type=BackgroundOrders)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    logs.configure("supervisor", level=orders.settings.log_level, form=orders.settings.log_format)
    try:
        return Supervisor(orders.settings, orders.models, LogFile(Path(orders.log), 2)).run()
    except TailraceError as error:
        structlog.get_logger().error("the server can't start", error=str(error))
        log_writer.standard_error().flush_last()
        return 1


if __name__ == "__main__":
    sys.exit(main())
