"""The engine process's entry: its orders, its placement on the machine, its exit status. ``service`` is its work.

The supervisor starts it as ``python -m tailrace.engine.process`` with its orders on standard input, or ahead of them as
a standby (``child.Standby``). Exit status 78 means that settings or model can't work; any other status but 0 means that
the engine broke and may be started again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

import msgspec
import structlog

from tailrace.child import (
    EXIT_CONFIGURATION,
    Standby,
    Start,
    best_effort,
    decode_start,
    raise_oom_score,
    read_start,
    record_log,
    settle_signals,
    unblock_signals,
)
from tailrace.engine.kernels import loader
from tailrace.engine.standby import fits, import_modules, start_again
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.applied_placement import is_placement_required
from tailrace.machine.binding import bind_cpus, bind_memory
from tailrace.machine.openmp_spin import set_spin_count
from tailrace.observe import logs
from tailrace.own_process.parent_death import die_with_parent
from tailrace.own_process.thread_name import name_thread
from tailrace.shared_memory.progress_page import ProgressPage

#: The engine has most of the memory, and a new one takes its place. The HTTP process has all connections.
_OOM_POINTS = 300
#: Seconds for which a thread may run Python code while the loop waits for its turn. Python's default, 5 ms, is as long
#: as a step of a small model.
_SWITCH_SECONDS = 0.001


def main(arguments: Sequence[str] = ()) -> None:
    """Run until told to stop. ``arguments``: a standby's one."""
    # Only OpenBLAS would use them, and the engine has no use for OpenBLAS.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    settle_signals()
    start = _wait_for_orders(arguments[0]) if arguments else read_start()
    name_thread("tailrace-engine")
    page = ProgressPage(start.progress_fd)
    unblock_signals()
    raise_oom_score(_OOM_POINTS)
    sys.setswitchinterval(_SWITCH_SECONDS)
    logs.configure(
        start.process_name or "engine", level=start.settings.log_level, form=start.settings.log_format, fd=start.log_fd
    )
    record_log(start)
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


def _wait_for_orders(argument: str) -> Start:
    """Import the modules of a standby process, then wait for the supervisor's orders."""
    die_with_parent()
    standby = msgspec.json.decode(argument, type=Standby)
    logs.configure("engine", level=standby.log_level, form=standby.log_format, fd=standby.log_fd)
    import_modules(standby)
    orders = sys.stdin.buffer.read()
    if not orders:
        sys.exit(0)  # It isn't needed.
    start = decode_start(orders)
    if not fits(standby, start):
        start_again(orders)
    return start


def _bind(start: Start) -> None:
    """Apply the plan to this process and to all threads that it will make."""
    replica = start.plan.replicas[start.replica]
    with contextlib.nullcontext() if is_placement_required(start.settings) else best_effort():
        bind_cpus(replica.cpus)
        bind_memory(replica)


if __name__ == "__main__":
    main(sys.argv[1:])
