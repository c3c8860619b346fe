"""The engine process's entry: its orders, its placement on the machine, its exit status. ``service`` is its work.

The supervisor starts it as ``python -m tailrace.engine.process`` with its orders on standard input. Exit status 78
means that settings or model can't work; any other status but 0 means that the engine broke and may be started again.
"""

from __future__ import annotations

import contextlib
import signal
import sys

import structlog

from tailrace.child import (
    EXIT_CONFIGURATION,
    Start,
    best_effort,
    raise_oom_score,
    read_start,
    settle_signals,
    unblock_signals,
)
from tailrace.engine.kernels import loader
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.applied_placement import is_placement_required
from tailrace.machine.binding import bind_cpus, bind_memory
from tailrace.machine.openmp_spin import set_spin_count
from tailrace.machine.thread_name import name_thread
from tailrace.observe import logs
from tailrace.progress_page import ProgressPage

#: The engine has most of the memory, and a new one takes its place. The HTTP process has all connections.
_OOM_POINTS = 300
#: Seconds for which a thread may run Python code while the loop waits for its turn. Python's default, 5 ms, is as long
#: as a step of a small model.
_SWITCH_SECONDS = 0.001


def main() -> None:
    """Run until told to stop."""
    start = read_start()
    name_thread("tailrace-engine")
    page = ProgressPage(start.progress_fd)
    settle_signals()
    unblock_signals()
    raise_oom_score(_OOM_POINTS)
    sys.setswitchinterval(_SWITCH_SECONDS)
    logs.configure(
        start.process_name or "engine", level=start.settings.log_level, form=start.settings.log_format, fd=start.log_fd
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # OpenMP reads it when it is loaded, with the binding.
    set_spin_count(start.plan.replicas[start.replica].decode.poll)
    loader.choose(start.settings.kernels)
    try:
        _bind(start)
        # numpy makes threads while it is imported, and they have to inherit the binding.
        from tailrace.engine.service import EngineService

        service = EngineService(start, page)
    except (ModelError, ConfigurationError) as error:
        page.message = f"{error} (llama.cpp: {page.message})" if page.message else str(error)
        structlog.get_logger().error("the model can't be served", error=str(error))
        sys.exit(EXIT_CONFIGURATION)
    except Exception as error:
        page.message = f"{type(error).__name__}: {error}"
        raise
    # From here on the model has worked: whatever ends the process, another start may help.
    try:
        service.run()
    except Exception as error:
        page.message = f"{type(error).__name__}: {error}"
        raise


def _bind(start: Start) -> None:
    """Apply the plan to this process and to all threads that it will make."""
    replica = start.plan.replicas[start.replica]
    with contextlib.nullcontext() if is_placement_required(start.settings) else best_effort():
        bind_cpus(replica.cpus)
        bind_memory(replica)


if __name__ == "__main__":
    main()
