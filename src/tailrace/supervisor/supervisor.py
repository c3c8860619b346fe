"""The processes' life: starts the engines and the HTTP process, keeps them alive, and stops them.

It has one thread, and sleeps until a signal or an order of the HTTP process comes, or the next look is due. A look
reads a page of memory for each child. With one model the server ends with it. With several each model fails alone.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import structlog

from tailrace.child import EXIT_CONFIGURATION
from tailrace.folders import cache_folder
from tailrace.machine.free_memory import read_memory
from tailrace.machine.plan import MachinePlan
from tailrace.machine.plan_wording import memory_size
from tailrace.observe.log_file import LogFile
from tailrace.own_process import open_files
from tailrace.serving.control import FromServer, RemoveModel, ServeModel
from tailrace.serving.memory_share import load_bytes, memory_budget
from tailrace.serving.model_spec import ModelSpec, loads_on_demand
from tailrace.serving.prefix_disk import with_disk_share
from tailrace.settings import Settings
from tailrace.supervisor.child_factory import ChildFactory
from tailrace.supervisor.child_process import ChildProcess, status_name
from tailrace.supervisor.control_link import ControlLink
from tailrace.supervisor.ending import Ending
from tailrace.supervisor.engine_group import UNLOAD_GRACE_SECONDS, EngineGroup, Failure
from tailrace.supervisor.listening import listen
from tailrace.supervisor.model_groups import ModelGroups
from tailrace.supervisor.model_plan import PlannedModel, plan_model, plan_only_model, plan_server
from tailrace.supervisor.service_manager import ServiceManager
from tailrace.supervisor.service_report import ServiceReport
from tailrace.supervisor.signal_queue import SignalQueue
from tailrace.supervisor.state_report import StateReport

#: Exit status after giving up a child that has served and keeps dying.
EXIT_GAVE_UP = 70
#: Seconds between two looks at the children, and before the server has been ready.
_LOOK_SECONDS = 1.0
_STARTING_LOOK_SECONDS = 0.1
#: Seconds that a child may take to stop beyond the drain time.
STOP_GRACE_SECONDS = 5.0
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
    """Serves ``models``, at least one; the first is the default. ``settings`` are the server's.

    ``log_file``: where standard error goes, where this is a server in the background.
    """

    settings: Settings
    models: tuple[ModelSpec, ...]
    log_file: LogFile | None = None
    _manager: ServiceManager = field(default_factory=ServiceManager)

    def run(self) -> int:
        """Serve until a signal says stop, or a child is given up; the exit status.

        Raises ConfigurationError when the address can't be had, or the machine has too little memory for the settings.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _WAIT_FOR_HANDLERS)
        open_files.raise_limit()  # The children inherit it.
        self._log = structlog.get_logger()
        #: One model is served, from the start, and the server ends with it.
        self._alone = not loads_on_demand(self.settings, self.models)
        self._budget = memory_budget(self.settings, read_memory())
        self.models = tuple(self._with_disk_share(spec) for spec in self.models)
        self._plan = self._plan_start()
        self._listening = http = listen(self.settings.host, self.settings.port)
        host, port = http.getsockname()[:2]
        log = str(self.log_file.path) if self.log_file is not None else None
        self._report = StateReport(self.settings, (host, port), self._plan.http_cpus, log)
        self._control = ControlLink(lambda name: self._groups.report(name))
        self._factory = ChildFactory(self.settings, http, self._control.server_fd, alone=self._alone)
        self._groups = ModelGroups(self._make_group, self._start_group, self._on_news)
        self._server = self._factory.http(self.models, self._plan, 0 if self._alone else self._budget)
        self._announced = False
        self._service = ServiceReport(self._manager, self._server, lambda: self.models, port, alone=self._alone)
        # A terminal that is closed stops the server, as users expect of a program in it. While it is there, SIGHUP
        # asks for files to be read again.
        stops = (*_STOPS, signal.SIGHUP) if sys.stdin is not None and sys.stdin.isatty() else _STOPS
        with SignalQueue({*_STOPS, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}) as self._signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAIT_FOR_HANDLERS)
            try:
                self._control.watch(self._signals)
                self._start(self._server)
                self._load_first()
                if not self._alone:
                    imports_llama = any(spec.path is not None for spec in self.models)
                    self._factory.keep_standby(self._plan, imports_llama=imports_llama)
                end = self._serve(stops)
                end = self._stop_all(end, stops)
            finally:
                for child in self._children:
                    if child.is_running:
                        child.send(signal.SIGKILL)
                http.close()
                self._factory.close()
                self._control.close()
                self._report.remove()
        if end.reason:
            self._log.error("the server has ended", reason=end.reason, exit_status=end.status)
        return end.status

    @property
    def _engines(self) -> list[ChildProcess]:
        return [engine for group in self._groups for engine in group.engines]

    @property
    def _children(self) -> list[ChildProcess]:
        return [self._server, *self._engines]

    def _plan_start(self) -> MachinePlan:
        """The plan that holds for the server; a single model's settings become what fits. Raises ConfigurationError."""
        if not self._alone:
            return plan_server(self.settings)
        planned = plan_only_model(self.models[0])
        self.models, self.settings = (planned.spec,), planned.spec.settings
        return planned.plan

    def _load_first(self) -> None:
        """Load the models that start with the server: the first one, and others as far as they fit."""
        left = self._budget
        for spec in self.models:
            if not spec.at_start:
                continue
            need = 0 if self._alone else load_bytes(spec, self._budget)
            if need <= left or spec is self.models[0]:
                left -= need
                self._groups.load(spec)
            else:
                self._log.warning(
                    "a model isn't loaded at the start: it doesn't fit beside the others",
                    model=spec.name,
                    takes=memory_size(need),
                    free=memory_size(left),
                )

    def _with_disk_share(self, spec: ModelSpec) -> ModelSpec:
        return with_disk_share(spec, len(self.models), cache_folder(), on_demand=not self._alone)

    def _on_news(self, name: str) -> None:
        """A model's phase or memory has changed, or its report is asked for."""
        self._control.announce(name)
        self._leave_state()

    def _make_group(self, spec: ModelSpec) -> EngineGroup:
        """The model's group, not yet started. Raises ConfigurationError."""
        # A model that came after the start has no number yet.
        spec = self._with_disk_share(spec)
        planned = PlannedModel(spec, self._plan, 0) if self._alone else plan_model(spec, self._budget)
        plan = msgspec.structs.replace(planned.plan, http_cpus=self._plan.http_cpus)
        return EngineGroup(planned.spec, plan, self._factory.engines(planned.spec, plan), bytes=planned.bytes)

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
                    self._service.reload()
                elif number == signal.SIGUSR1:
                    self._log_stacks()
            if (end := self._replace_dead()) is not None:
                return end
            self._obey(self._control.orders())
            self._control.send_pending()
            now = time.monotonic()
            self._groups.kill_late(now)
            if now - looked >= self._period:
                # Time beyond two periods is the supervisor's own absence: a suspended machine, say.
                self._look(now, min(now - looked, 2 * self._period))
                looked = now

    def _obey(self, orders: Iterable[FromServer]) -> None:
        """Carry out the orders. The next HTTP process serves what was pulled, and nothing that was deleted."""
        for order in orders:
            if isinstance(order, ServeModel):
                self._remove(order.spec.name)
                self.models += (order.spec,)
            elif isinstance(order, RemoveModel):
                self._remove(order.name)
            else:
                self._groups.obey(order)

    def _remove(self, name: str) -> None:
        self.models = tuple(spec for spec in self.models if spec.name != name)

    def _replace_dead(self) -> _End | None:
        """Notice deaths, and start what is due. Returns the server's end where a child is given up."""
        if (status := self._server.poll()) is not None and (end := self._on_server_death(status)) is not None:
            return end
        for group in self._groups:
            for engine in group.engines:
                if (status := engine.poll()) is not None and (end := self._on_engine_death(group, engine, status)):
                    return end
        for child in self._children:
            if child.start_at is not None and child.start_at <= time.monotonic():
                self._start(child)
        return None

    @property
    def _period(self) -> float:
        """Seconds between two looks."""
        watchdog = self._manager.watchdog_seconds
        seconds = _LOOK_SECONDS if self._announced else _STARTING_LOOK_SECONDS
        return seconds if watchdog is None else min(seconds, watchdog)

    def _seconds_until_due(self, looked: float) -> float | None:
        """Seconds until the loop has something to do without a signal; None: never."""
        due = [child.start_at for child in self._children if child.start_at is not None]
        due += [group.kill_at for group in self._groups if group.kill_at is not None]
        if (
            self.settings.hang_seconds
            or self._manager.is_there
            or self.log_file
            or not (self._announced and self._alone)
        ):
            due.append(looked + self._period)
        return min(due) - time.monotonic() if due else None

    def _look(self, now: float, seconds: float) -> None:
        """Look at each child. ``seconds``: since the last look."""
        hangs = self._hangs(self._server, seconds)
        for group in self._groups:
            for engine in group.engines:
                # The time in which an engine has to end is bounded otherwise.
                hangs = (group.is_wanted and self._hangs(engine, seconds)) or hangs
        self._groups.look(now)
        loads = any(group.phase == "starting" for group in self._groups)
        self._factory.look_at_standby(now, loads=loads)
        if not self._announced and self._server.page is not None and self._server.page.ready:
            self._announced = True
            self._leave_state()
        if self.log_file is not None:
            self.log_file.limit()
        self._service.look(self._groups, announced=self._announced)
        if not hangs:
            self._manager.sign_of_life(now, self._period)

    def _hangs(self, child: ChildProcess, seconds: float) -> bool:
        """Whether the child hangs; it is ended then."""
        if child.watch is None or not child.is_running:
            return False
        reason = child.watch.look(seconds)
        if child is not self._server and not self._server_reads:
            # The engine's messages wait in the socket. It isn't the one that hangs.
            child.watch.excuse()
        elif reason is None:
            child.killed_for = None
        elif self.settings.hang_seconds:
            self._end_hung(child, reason)
            return True
        return False

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
            self._factory.lives.count_hang(child.number)
            if not child.watch.is_stopped:
                child.send(signal.SIGUSR1)
                return
        child.send(signal.SIGKILL)

    def _on_server_death(self, status: int) -> _End | None:
        """Plan the next start of the HTTP process. Returns the server's end when it is given up."""
        server, reason = self._server, self._server.death_reason(status)
        self._announced = self._announced or (server.page is not None and server.page.ready)
        self._service.on_server_death()
        self._control.forget_reports()
        served = {spec.name for spec in self.models}
        for group in self._groups:
            if group.name not in served:
                self._groups.unload(group.name)  # It was deleted, and the HTTP process died before it could say so.
        if status == EXIT_CONFIGURATION:
            return _End(EXIT_CONFIGURATION, reason.partition(": ")[2] or "the settings or the model can't work")
        ready = server.was_ready
        delay = server.restarts.died(time.monotonic() - server.started, ready=ready)
        self._log_death(server, status, reason, delay)
        if delay is not None:
            server.start_at = time.monotonic() + delay
            return None
        if ready:
            return _End(EXIT_GAVE_UP, _kept_dying(server, reason))
        unready = server.restarts.unready
        return _End(EXIT_GAVE_UP, f"the HTTP process can't start: {reason} (starts before it was ready: {unready})")

    def _on_engine_death(self, group: EngineGroup, engine: ChildProcess, status: int) -> _End | None:
        """Plan the engine's next start, or give its model up. Returns the server's end where it was the only model."""
        self._factory.ended(engine)
        if not group.is_wanted:
            self._groups.on_end(group)
            return None
        found = group.on_death(engine, status)
        if not isinstance(found, Failure):
            self._log_death(engine, status, engine.death_reason(status), found)
            engine.start_at = time.monotonic() + found
            return None
        if not found.settings:
            self._log_death(engine, status, found.reason, None)
        words = found.reason
        if found.was_ready and not found.settings:
            words = _kept_dying(engine, found.reason)
        elif not found.settings:
            words += f" (starts before it was ready: {engine.restarts.unready})"
        if not self._alone:
            self._groups.fail(group, words)
            return None
        if found.was_ready and not found.settings:
            return _End(EXIT_GAVE_UP, words)
        return _End(EXIT_CONFIGURATION, words if found.settings else f"the model can't be loaded: {words}")

    def _log_death(self, child: ChildProcess, status: int, reason: str, delay: float | None) -> None:
        """``delay``: seconds until the next start; None: it is given up."""
        more = {}
        if delay is not None:
            more = {"lived": round(time.monotonic() - child.started, 1), "restart_in": delay}
        self._log.error(f"the {child.name} process died", status=status_name(status), reason=reason, **more)

    def _start_group(self, group: EngineGroup) -> None:
        for engine in group.engines:
            self._start(engine)

    def _start(self, child: ChildProcess) -> None:
        if child is self._server:
            child.orders = msgspec.structs.replace(child.orders, announce=not self._announced, models=self.models)
        self._factory.start(child)
        self._leave_state()

    def _leave_state(self) -> None:
        """For ``tailrace ps``, ``stop``, ``logs`` and ``doctor``."""
        self._report.write(self.models, self._groups, self._server.pid, ready=self._announced)

    # Signals

    def _log_stacks(self) -> None:
        """Have each child write the stacks of its threads to the log; one that starts does it a little later."""
        for child in self._children:
            if child.is_running:
                child.send(signal.SIGUSR1)

    # The end

    def _stop_all(self, end: _End, stops: tuple[int, ...]) -> _End:
        """Stop the HTTP process, which gives running replies time to finish, and then the engines."""
        self._manager.stopping()
        self._control.ignore()
        ending = Ending(self._signals, self._manager, self._period, stops)
        second = ending.end([self._server], self.settings.drain_seconds + STOP_GRACE_SECONDS)
        # Before the engines stop: a client that comes now is turned away instead of left waiting.
        self._listening.close()
        second = second or ending.end(self._engines, UNLOAD_GRACE_SECONDS)
        return end if not second else _End(128 + second, "")


def _kept_dying(child: ChildProcess, reason: str) -> str:
    return (
        f"the {child.name} process died {child.restarts.in_a_row} times, each time soon after its start. The last "
        f"time: {reason}"
    )
