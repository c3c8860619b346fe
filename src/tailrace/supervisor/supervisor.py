"""The processes' life: starts the engines and the HTTP process, keeps them alive, and stops them.

It owns the listening socket and the hub between the processes, so that no child's death closes either. It has one
thread, and sleeps until a signal comes or the next look is due. A look reads a page of memory for each child.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from tailrace import ipc
from tailrace.child import EXIT_CONFIGURATION, Start
from tailrace.errors import ModelError
from tailrace.lives_page import LivesPage
from tailrace.machine import open_files
from tailrace.machine.free_memory import read_memory
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.memory_fit import fit_to_memory
from tailrace.machine.plan import MachinePlan
from tailrace.machine.planner import make_plan
from tailrace.machine.running_servers import ServerState, StateFolder
from tailrace.machine.topology import read_topology
from tailrace.progress_page import create_page
from tailrace.serving.model_memory import memory_demand, model_needs
from tailrace.settings import Settings
from tailrace.supervisor.child_process import ChildProcess, status_name
from tailrace.supervisor.listening import listen
from tailrace.supervisor.restarts import Restarts
from tailrace.supervisor.service_manager import ServiceManager
from tailrace.supervisor.signal_queue import SignalQueue
from tailrace.supervisor.stray_output import StrayOutput

#: Exit status after giving up a child that has served and keeps dying.
EXIT_GAVE_UP = 70
#: Seconds between two looks at the children.
_LOOK_SECONDS = 1.0
#: Seconds that a child may take to stop beyond the drain time.
STOP_GRACE_SECONDS = 5.0
#: Seconds after which an engine that can't be given up is tried again: others serve.
_RARE_RETRY_SECONDS = 60.0
#: Reloads of an HTTP process that has read its files at its start; no count is equal to it.
_READ_AT_START = -1
#: Signals that would end the supervisor before it has handlers.
_WAIT_FOR_HANDLERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


@dataclass(frozen=True)
class _End:
    """The reason and the exit status of the server's end. ``signal``: 0 where no signal was sent."""

    status: int
    reason: str
    signal: int = 0


@dataclass
class Supervisor:
    """Runs one model. ``model_path`` is None with the fake backend."""

    settings: Settings
    model_name: str
    model_path: Path | None
    _folder: StateFolder = field(default_factory=StateFolder)
    _manager: ServiceManager = field(default_factory=ServiceManager)

    def run(self) -> int:
        """Serve until a signal says stop, or a child is given up; the exit status.

        Raises ConfigurationError when the address can't be had, or the machine has too little memory for the settings.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAIT_FOR_HANDLERS)
        open_files.raise_limit()  # The children inherit it.
        offload = self.model_path is not None and offloads(read_gpus(), build_backends())
        plan = self._plan(offload=offload)
        if not offload or self.settings.gpu_layers == 0:
            self._fit(plan)
        self._listening = http = listen(self.settings.host, self.settings.port)
        self._host, self._port = http.getsockname()[:2]
        http_hub, engine_hub = ipc.connection_hub()
        limit = self.settings.restart_limit
        lives_fd = create_page()
        # Children log here; their standard error is a pipe, in which only strays arrive.
        log_fd = os.dup(2)
        stray = StrayOutput()
        self._lives = LivesPage(lives_fd)
        self._server = ChildProcess(
            "http",
            "tailrace.server.process",
            (http.fileno(), lives_fd, log_fd),
            http_hub.fileno(),
            Restarts(limit),
            stray,
        )
        self._engines = [
            ChildProcess(
                "engine" if len(plan.replicas) == 1 else f"engine {number}",
                "tailrace.engine.process",
                (log_fd,),
                engine_hub.fileno(),
                Restarts(limit),
                stray,
                replica=number,
            )
            for number in range(len(plan.replicas))
        ]
        self._children = (self._server, *self._engines)
        self._orders = Start(
            settings=self.settings,
            plan=plan,
            parent=os.getpid(),
            model_name=self.model_name,
            model_path=str(self.model_path) if self.model_path is not None else None,
            hub_fd=-1,
            progress_fd=-1,
            log_fd=log_fd,
            lives_fd=lives_fd,
            http_fd=http.fileno(),
        )
        self._announced = self._was_ready = self._had_engine = False
        self._reloads: int | None = None
        self._log = structlog.get_logger()
        # A terminal that is closed stops the server, as users expect of a program in it. While it is there, SIGHUP
        # asks for files to be read again.
        stops = (*_STOPS, signal.SIGHUP) if sys.stdin is not None and sys.stdin.isatty() else _STOPS
        with SignalQueue({*_STOPS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}) as self._signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAIT_FOR_HANDLERS)
            try:
                for child in self._children:
                    self._start(child)
                end = self._serve(stops)
                end = self._stop_all(end, stops)
            finally:
                for child in self._children:
                    if child.is_running:
                        child.send(signal.SIGKILL)
                for sock in (http, http_hub, engine_hub):
                    sock.close()
                stray.finish()
                os.close(log_fd)
                os.close(lives_fd)
                self._lives.close()
                self._folder.remove()
        if end.reason:
            self._log.error("the server has ended", reason=end.reason, exit_status=end.status)
        return end.status

    def _fit(self, plan: MachinePlan) -> None:
        """Reduce the context to what fits into memory. Raises ConfigurationError when the model can't fit."""
        if self.model_path is None:
            return
        try:
            demand = memory_demand(self.model_path, self.settings)
        except (ModelError, OSError):
            return  # The engine reports what is wrong with the file.
        private = sum(replica.node is not None or bool(replica.interleave) for replica in plan.replicas)
        self.settings, warnings = fit_to_memory(demand, self.settings, read_memory(), private_copies=private)
        for warning in warnings:
            structlog.get_logger().warning(warning)

    def _plan(self, *, offload: bool) -> MachinePlan:
        """Raises ConfigurationError when a setting can't work on this machine."""
        try:
            needs = None if self.model_path is None else model_needs(self.model_path, self.settings)
        except (ModelError, OSError):
            needs = None  # The engine reports what is wrong with a file that can't be loaded.
        return make_plan(read_topology(), self.settings, needs, offload=offload)

    # While it serves

    def _serve(self, stops: tuple[int, ...]) -> _End:
        """Keep the children alive until the server has to end."""
        looked = time.monotonic()
        while True:
            for number in self._signals.wait(self._seconds_until_due(looked)):
                if number in stops and not (number == signal.SIGHUP and sys.stdin.isatty()):
                    self._log.info("stopping", signal=signal.Signals(number).name)
                    return _End(0, "", number)
                if number == signal.SIGHUP:
                    self._reload()
                elif number == signal.SIGUSR1:
                    self._log_stacks()
            for child in self._children:
                if (status := child.poll()) is not None and (end := self._on_death(child, status)) is not None:
                    return end
                if child.start_at is not None and child.start_at <= time.monotonic():
                    self._start(child)
            now = time.monotonic()
            if now - looked >= self._period:
                # Time beyond two periods is the supervisor's own absence: a suspended machine, say.
                self._look(now, min(now - looked, 2 * self._period))
                looked = now

    @property
    def _period(self) -> float:
        """Seconds between two looks."""
        watchdog = self._manager.watchdog_seconds
        return _LOOK_SECONDS if watchdog is None else min(_LOOK_SECONDS, watchdog)

    def _seconds_until_due(self, looked: float) -> float | None:
        """Seconds until the loop has something to do without a signal; None: never."""
        due = [child.start_at for child in self._children if child.start_at is not None]
        if self.settings.hang_seconds or self._manager.is_there or not self._announced:
            due.append(looked + self._period)
        return min(due) - time.monotonic() if due else None

    def _look(self, now: float, seconds: float) -> None:
        """Look at each child. ``seconds``: since the last look."""
        hangs = False
        for child in self._children:
            if child.watch is None or not child.is_running:
                continue
            reason = child.watch.look(seconds)
            if child is not self._server and not self._server_reads:
                # The engine's messages wait in the socket. It isn't the one that hangs.
                child.watch.excuse()
            elif reason is None:
                child.killed_for = None
            elif self.settings.hang_seconds:
                hangs = True
                self._end_hung(child, reason)
        if not self._announced and self._server.page is not None and self._server.page.ready:
            self._announced = True
        self._notify(now, hangs)

    @property
    def _server_reads(self) -> bool:
        """Whether the HTTP process makes progress."""
        server = self._server
        return server.serves and server.watch is not None and server.watch.silent <= 2 * _LOOK_SECONDS

    def _end_hung(self, child: ChildProcess, reason: str) -> None:
        """End a child that makes no progress: first have it log its stacks, then kill it."""
        assert child.watch is not None
        if child.killed_for is None:
            self._log.error(f"the {child.name} process hangs; it is replaced", reason=reason)
            child.killed_for = reason
            self._lives.count_hang(self._children.index(child))
            if not child.watch.is_stopped:
                child.send(signal.SIGUSR1)
                return
        child.send(signal.SIGKILL)

    def _on_death(self, child: ChildProcess, status: int) -> _End | None:
        """Plan the next start of a child that has died. Returns the server's end when it is given up."""
        reason = child.death_reason(status)
        if child is self._server:
            self._announced = self._announced or (child.page is not None and child.page.ready)
            self._reloads = None if self._reloads is None else _READ_AT_START
        if status == EXIT_CONFIGURATION:
            return _End(EXIT_CONFIGURATION, reason.partition(": ")[2] or "the settings or the model can't work")
        lived = time.monotonic() - child.started
        ready = child.was_ready
        self._had_engine = self._had_engine or (ready and child is not self._server)
        delay = child.restarts.died(lived, ready=ready)
        if child.has_aborted(status) and not self._had_engine:
            delay = None  # A check of llama.cpp has failed, and would fail again with the same file.
        if delay is None and any(engine.serves for engine in self._engines) and child is not self._server:
            delay = _RARE_RETRY_SECONDS
        if delay is None:
            self._log.error(f"the {child.name} process died", status=status_name(status), reason=reason)
            return self._give_up(child, reason, ready=ready)
        self._log.error(
            f"the {child.name} process died",
            status=status_name(status),
            reason=reason,
            lived=round(lived, 1),
            restart_in=delay,
        )
        child.start_at = time.monotonic() + delay
        return None

    def _give_up(self, child: ChildProcess, reason: str, *, ready: bool) -> _End:
        deaths = child.restarts
        if ready:
            return _End(
                EXIT_GAVE_UP,
                f"the {child.name} process died {deaths.in_a_row} times, each time soon after its start. The last "
                f"time: {reason}",
            )
        what = "the model can't be loaded" if child is not self._server else "the HTTP process can't start"
        return _End(
            EXIT_CONFIGURATION if child is not self._server else EXIT_GAVE_UP,
            f"{what}: {reason} (starts before it was ready: {deaths.unready})",
        )

    def _start(self, child: ChildProcess) -> None:
        orders = msgspec.structs.replace(self._orders, announce=not self._announced)
        try:
            child.start(orders, self.settings.hang_seconds)
            self._lives.count_start(self._children.index(child))
        except (OSError, MemoryError) as error:
            # The system has no process, descriptor or memory left: later it may.
            delay = child.restarts.start_failed()
            child.start_at = time.monotonic() + delay
            self._log.error(f"the {child.name} process can't be started", error=str(error), try_again_in=delay)
        self._leave_state()

    def _leave_state(self) -> None:
        """For ``tailrace doctor``."""
        http, *engines = (child.process.pid if child.process is not None else None for child in self._children)
        self._folder.write(
            ServerState(
                plan=self._orders.plan,
                model=self.model_name,
                port=self._port,
                supervisor=os.getpid(),
                http=http,
                engines=tuple(engines),
                pools=self.model_path is not None,
                host=self._host,
                tls=self.settings.tls_cert is not None,
            )
        )

    # Signals and systemd

    def _reload(self) -> None:
        """Have the HTTP process read its files again."""
        self._log.info("reloading")
        self._manager.reloading()
        # A process that isn't there reads them at its start.
        self._reloads = self._server.page.reloads if self._server.page is not None else _READ_AT_START
        if self._server.is_running:
            self._server.send(signal.SIGHUP)

    def _log_stacks(self) -> None:
        """Have each child write the stacks of its threads to the log; one that starts does it a little later."""
        for child in self._children:
            if child.is_running:
                child.send(signal.SIGUSR1)

    def _notify(self, now: float, hangs: bool) -> None:
        """Tell the service manager what is new."""
        manager = self._manager
        if not manager.is_there:
            return
        serving = self._server.serves and all(engine.serves for engine in self._engines)
        text = f"serving {self.model_name} on port {self._port}"
        if serving and self._announced:
            if not self._was_ready:
                self._was_ready = True
                manager.ready(text)
            reloaded = self._reloads is not None and self._server.page is not None
            if reloaded and self._server.page is not None and self._server.page.reloads != self._reloads:
                self._reloads = None
                manager.ready(text)
            manager.status(text)
        else:
            waiting = [child.name for child in self._children if not child.serves]
            manager.status(f"waiting for: {', '.join(waiting)}")
            if not self._was_ready:
                manager.extend_start()
        if not hangs:
            manager.sign_of_life(now, self._period)

    # The end

    def _stop_all(self, end: _End, stops: tuple[int, ...]) -> _End:
        """Stop the HTTP process, which gives running replies time to finish, and then the engines."""
        self._manager.stopping()
        second = self._stop([self._server], self.settings.drain_seconds + STOP_GRACE_SECONDS, stops)
        # Before the engines stop: a client that comes now is turned away instead of left waiting.
        self._listening.close()
        second = second or self._stop(self._engines, STOP_GRACE_SECONDS, stops)
        return end if not second else _End(128 + second, "")

    def _stop(self, children: list[ChildProcess], grace: float, stops: tuple[int, ...]) -> int:
        """Ask the children to stop, and kill those that don't in time. Returns the signal that asks for haste, or 0."""
        for child in children:
            if child.is_running:
                child.send(signal.SIGTERM)
                child.send(signal.SIGCONT)  # A stopped process ends, too.
        deadline = time.monotonic() + grace
        killed = False
        while running := [child for child in children if child.is_running and child.poll() is None]:
            now = time.monotonic()
            if now >= deadline and not killed:
                killed = True
                for child in running:
                    self._log.warning(f"the {child.name} process didn't stop in time; killing it")
                    child.send(signal.SIGKILL)
            self._manager.sign_of_life(now, self._period)
            for number in self._signals.wait(self._period if killed else min(self._period, deadline - now)):
                if number in stops:
                    return number
        return 0
