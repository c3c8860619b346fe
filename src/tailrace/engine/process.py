"""The engine process's entry: its orders, its place on the machine, its exit status. ``service`` is its work.

Started by the supervisor as ``python -m tailrace.engine.process`` with its orders on standard input. Exit status 78
means that the settings or the model can't work, anything else but 0 that the engine broke and may be started again.
"""

from __future__ import annotations

import signal
import sys

import structlog

from tailrace.child import EXIT_CONFIGURATION, read_start
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.binding import bind_cpus, bind_memory
from tailrace.observe import logs


def main() -> None:
    """Run until told to stop."""
    start = read_start()
    logs.configure("engine", level=start.settings.log_level, form=start.settings.log_format)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    replica = start.plan.replicas[start.replica]
    try:
        bind_cpus(replica.cpus)
        bind_memory(replica)
        # Only now, because numpy makes threads while it is imported, and they have to inherit the binding.
        from tailrace.engine.service import serve

        serve(start)
    except (ModelError, ConfigurationError) as error:
        structlog.get_logger().error("the model can't be served", error=str(error))
        sys.exit(EXIT_CONFIGURATION)


if __name__ == "__main__":
    main()
