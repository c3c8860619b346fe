"""The orders of a child process at its start, and the child's ties to its parent.

The parent writes one JSON document to the child's standard input: secrets never appear in an argument list or an
environment that other users' tools could read.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from tailrace.errors import ConfigurationError
from tailrace.machine.binding import bind_cpus
from tailrace.machine.plan import MachinePlan
from tailrace.observe import logs
from tailrace.own_process.parent_death import die_with_parent
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.shared_memory.log_page import LogPage

#: Exit status of a child whose settings or model can't work: starting it again is useless.
EXIT_CONFIGURATION = 78

#: See ``raise_oom_score``: a sandbox, which has one request's memory, goes before the engine.
SANDBOX_OOM_POINTS = 300


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A child's orders. File descriptors are inherited ones."""

    settings: Settings
    plan: MachinePlan  #: where on this machine the processes belong
    replica: int = 0  #: which of the plan's replicas this is (engine only)
    parent: int  #: the supervisor's process id
    model_name: str  #: what clients call the model
    model_path: str | None  #: None with the fake backend
    hub_fd: int  #: its end of the socket over which connections are handed on (``ipc.connection_hub``)
    progress_fd: int  #: its page of shared memory (``progress_page``)
    log_fd: int = 2  #: where its log goes; its standard error is a pipe to the supervisor
    log_page_fd: int = -1  #: the shared memory with the last log lines of all processes (``shared_memory.log_page``)
    lives_fd: int = -1  #: the page of shared memory with all children's starts (HTTP process only)
    http_fd: int | None = None  #: the listening TCP socket (HTTP process only)
    cores_fd: int = -1  #: the page on which engines divide the cores (``cores_page``; engine only, with several models)
    number: int = -1  #: its place on pages that all children share: the HTTP process is 0; -1: it has none
    control_fd: int = -1  #: its end of the control channel (``serving.control``; HTTP process only)
    models: tuple[ModelSpec, ...] = ()  #: all models that are served (HTTP process only); the first is the default
    memory: int = 0  #: bytes that all loaded models may take together; 0 with one model (HTTP process only)
    process_name: str = ""  #: its name in the log
    has_served: bool = False  #: whether an earlier process of this kind has become ready (engine only)
    announce: bool = True  #: whether to print where the server listens (until it has been printed)


class Standby(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine's process gets as its argument (JSON) where it starts before there are orders for it.

    The process imports its modules, and then waits for a ``Start`` on standard input. Its end without one is no error.
    """

    kernels: str  #: the setting
    poll: int  #: of the plan's pool that decodes
    imports_llama: bool  #: False with the fake backend
    log_fd: int = 2
    log_level: str = "info"
    log_format: Literal["console", "json"] = "console"


def read_start() -> Start:
    """The orders, from standard input; also ties this process's life to the parent's."""
    die_with_parent()
    return decode_start(sys.stdin.buffer.read())


def decode_start(orders: bytes) -> Start:
    """The orders. Ends the process where the supervisor has died."""
    start = msgspec.json.decode(orders, type=Start)
    # A parent that died before prctl has another process id.
    if os.getppid() != start.parent:
        raise SystemExit("the supervisor died while this process was starting")
    return start


def record_log(start: Start) -> None:
    """Have this process's log lines in its ring, too."""
    if start.log_page_fd >= 0 and start.number >= 0:
        logs.record_in(LogPage(start.log_page_fd).ring(start.number + 1))


def settle_signals(*, ignore_hang_up: bool = True) -> None:
    """Have stray signals do no harm: SIGHUP and SIGUSR2 are ignored, and SIGUSR1 writes all threads' stacks to the log.

    The supervisor has blocked SIGHUP and SIGUSR1, so none that came before is fatal; see ``unblock_signals``.
    ``ignore_hang_up`` False: this process will handle SIGHUP. To ignore it meanwhile would drop one that waits.
    """
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)
    for number in (signal.SIGUSR2, signal.SIGQUIT, *((signal.SIGHUP,) if ignore_hang_up else ())):
        signal.signal(number, signal.SIG_IGN)


def unblock_signals() -> None:
    """Receive what the supervisor has blocked; a signal that has come meanwhile is delivered now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1))


def raise_oom_score(points: int) -> None:
    """Have the kernel end this process before others when memory runs out. ``points``: thousandths of the memory that
    this process counts as larger.

    The parent's value is inherited, so a child's child goes first. Any process may raise its own value.
    """
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(min(1000, int(path.read_text()) + points)), encoding="ascii")
    except OSError:
        return  # Systems without /proc have no such value.


@contextlib.contextmanager
def best_effort() -> Iterator[None]:
    """Within, a placement of the plan that the kernel refuses is logged and skipped."""
    try:
        yield
    except ConfigurationError as error:
        structlog.get_logger().warning("the machine's plan can't be applied", error=str(error))


def settle_on(cpus: Collection[int]) -> None:
    """Have this thread, and those that it makes, run on ``cpus``, if the kernel lets them. What was set has been
    checked by the planner, against what this user may use.
    """
    with best_effort():
        bind_cpus(cpus)


def settle_memory() -> None:
    """Keep the garbage collector off the token's way: call it when everything long-lived has been made.

    What is alive now stays alive, so it isn't walked again. Nothing on the token's way makes cycles, so the youngest
    generation may grow well beyond its default of 700 objects (those of twenty tokens) before a collection. A request
    leaves about 35 objects in cycles, so 300 requests' memory waits for one.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
