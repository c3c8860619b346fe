"""Makes the children and starts them, with the file descriptors that they inherit: sockets, pages and the log.

The supervisor owns these for its whole life, so no child's death closes the port, the hub or the control channel.
"""

from __future__ import annotations

import os
import socket
import time

import msgspec
import structlog

from tailrace import ipc
from tailrace.child import Standby, Start
from tailrace.machine.plan import MachinePlan
from tailrace.observe import logs
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.shared_memory.cores_page import CoresPage
from tailrace.shared_memory.lives_page import MAX_CHILDREN, LivesPage
from tailrace.shared_memory.log_page import LogPage, create_log_page
from tailrace.shared_memory.memory_file import create_page
from tailrace.supervisor.child_process import ChildProcess
from tailrace.supervisor.restarts import Restarts
from tailrace.supervisor.standby_engine import StandbyEngine
from tailrace.supervisor.stray_output import StrayOutput

_ENGINE = "tailrace.engine.process"


class ChildFactory:
    """See the module."""

    def __init__(self, settings: Settings, listening: socket.socket, control_fd: int, *, alone: bool) -> None:
        """``settings``: the server's. ``alone``: one model is served, so its engines need no name."""
        self._settings = settings
        self._alone = alone
        self._listening = listening
        self._control_fd = control_fd
        self._hubs = ipc.connection_hub()
        # Children log here; their standard error is a pipe, in which only strays arrive.
        self._log_fd = os.dup(2)
        self._log_page_fd = create_log_page()
        logs.record_in(LogPage(self._log_page_fd).ring(0))
        self._lives_fd = create_page()
        self.lives = LivesPage(self._lives_fd)
        # Engines of one model have cores of their own, each those of its NUMA node.
        self._cores_fd = -1 if alone else create_page()
        self._cores = None if alone else CoresPage(self._cores_fd)
        self._stray = StrayOutput()
        self._numbers: dict[tuple[str, int], int] = {}  #: the first number of a model with so many replicas
        self._next_number = 1
        self._standby: StandbyEngine | None = None

    def http(self, models: tuple[ModelSpec, ...], plan: MachinePlan, memory: int) -> ChildProcess:
        """The HTTP process, not yet started. ``models``: all that are served, the default one first.

        ``memory``: bytes that they may take together.
        """
        hub, page, http, control = self._hubs[0].fileno(), self._lives_fd, self._listening.fileno(), self._control_fd
        orders = msgspec.structs.replace(
            self._orders("http", models[0], self._settings, plan),
            hub_fd=hub,
            lives_fd=page,
            http_fd=http,
            control_fd=control,
            models=models,
            memory=memory,
            number=0,
        )
        fds = (http, page, self._log_fd, self._log_page_fd, control, hub)
        restarts = Restarts(self._settings.restart_limit)
        return ChildProcess("http", "tailrace.server.process", orders, fds, restarts, self._stray, 0)

    def engines(self, spec: ModelSpec, plan: MachinePlan) -> tuple[ChildProcess, ...]:
        """The model's engines, not yet started."""
        count, hub = len(plan.replicas), self._hubs[1].fileno()
        first = self._first_number(spec.name, count)
        engines = []
        for replica in range(count):
            name = self._engine_name(spec.name, replica, count)
            orders = self._orders(name, spec, spec.settings, plan)
            number = first + replica if first >= 0 else -1
            orders = msgspec.structs.replace(
                orders, hub_fd=hub, replica=replica, cores_fd=self._cores_fd, number=number
            )
            restarts = Restarts(self._settings.restart_limit)
            fds = self._engine_fds
            engines.append(ChildProcess(name, _ENGINE, orders, fds, restarts, self._stray, number))
        return tuple(engines)

    @property
    def _engine_fds(self) -> tuple[int, ...]:
        return (
            self._log_fd,
            self._log_page_fd,
            self._hubs[1].fileno(),
            *([] if self._cores is None else [self._cores_fd]),
        )

    def keep_standby(self, plan: MachinePlan, *, imports_llama: bool) -> None:
        """Have a process ready for the next engine from now on (``look_at_standby``). ``plan``: the server's."""
        standby = Standby(
            kernels=self._settings.kernels,
            poll=plan.replicas[0].decode.poll,
            imports_llama=imports_llama,
            log_fd=self._log_fd,
            log_level=self._settings.log_level,
            log_format=self._settings.log_format,
        )
        self._standby = StandbyEngine(standby, self._engine_fds)

    def look_at_standby(self, now: float, *, loads: bool) -> None:
        """Start the standby process where it is missing. ``loads``: a model loads now."""
        if self._standby is not None and self._cores is not None:
            self._standby.look(now, loads=loads, computes=self._cores.is_any_computing)

    def _orders(self, name: str, spec: ModelSpec, settings: Settings, plan: MachinePlan) -> Start:
        return Start(
            settings=settings,
            plan=plan,
            parent=os.getpid(),
            process_name=name,
            model_name=spec.name,
            model_path=spec.path,
            hub_fd=-1,
            progress_fd=-1,
            log_fd=self._log_fd,
            log_page_fd=self._log_page_fd,
        )

    def _engine_name(self, model: str, replica: int, count: int) -> str:
        words = ["engine", *([] if self._alone else [model]), *([str(replica)] if count > 1 else [])]
        return " ".join(words)

    def _first_number(self, model: str, count: int) -> int:
        """The place of the model's engines on the page of lives; -1 where the page is full."""
        if (model, count) not in self._numbers:
            fits = self._next_number + count <= MAX_CHILDREN
            self._numbers[model, count] = self._next_number if fits else -1
            self._next_number += count if fits else 0
        return self._numbers[model, count]

    def start(self, child: ChildProcess) -> None:
        """Start the child; where the system refuses that, it is tried again later."""
        try:
            waiting = self._standby.take() if self._standby is not None and child.module == _ENGINE else None
            child.start(self._settings.hang_seconds, waiting)
        except (OSError, MemoryError) as error:
            # The system has no process, descriptor or memory left: later it may.
            delay = child.restarts.start_failed()
            child.start_at = time.monotonic() + delay
            structlog.get_logger().error(
                f"the {child.name} process can't be started", error=str(error), try_again_in=delay
            )
            return
        self.lives.count_start(child.number)

    def ended(self, engine: ChildProcess) -> None:
        """The engine's process has ended: other engines have its cores."""
        if self._cores is not None:
            self._cores.show(engine.number, 0)

    def close(self) -> None:
        """Close everything but the listening socket, when all children have ended."""
        if self._standby is not None:
            self._standby.close()
        for hub in self._hubs:
            hub.close()
        self._stray.finish()
        self.lives.close()
        os.close(self._log_fd)
        os.close(self._log_page_fd)
        os.close(self._lives_fd)
        if self._cores is not None:
            self._cores.close()
            os.close(self._cores_fd)
