"""The engines of one loaded model: a process for each replica of its plan, and the model's phase.

A group starts nothing and waits for nothing: the supervisor starts its processes and reports their deaths. A group is
made for each load, so a model that is ordered again after a failure has no deaths behind it.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field

from tailrace.child import EXIT_CONFIGURATION
from tailrace.machine.plan import MachinePlan
from tailrace.machine.running_servers import LoadedModel
from tailrace.serving.control import ModelPhase, ModelReport
from tailrace.serving.model_spec import ModelSpec
from tailrace.supervisor.child_process import ChildProcess
from tailrace.supervisor.memory_use import is_news, measure

#: Seconds that engines may take to save their prefix states and end, when their model is unloaded.
UNLOAD_GRACE_SECONDS = 10.0
#: What a model waits for, in its report. A worker's address is for the log: health checks need no key.
WAITS_FOR_WORKER = "the engine waits for a worker: see the log"
#: Seconds between two measurements of a model's memory.
_MEASURE_SECONDS = 3.0
#: Seconds after which an engine that can't be given up is tried again: others serve.
_RARE_RETRY_SECONDS = 60.0


@dataclass
class Failure:
    """Why a model is given up."""

    reason: str
    was_ready: bool  #: whether the engine that died had served
    settings: bool = False  #: whether the engine has said so itself: another start can't help


@dataclass
class EngineGroup:
    """See the module. ``spec`` has the settings that were planned for this load."""

    spec: ModelSpec
    plan: MachinePlan
    engines: tuple[ChildProcess, ...]
    phase: ModelPhase = "starting"
    reason: str = ""  #: why it failed, or what it waits for
    bytes: int = 0  #: what its engines may come to take, as reported: planned first, then measured
    measure_at: float = 0.0  #: when it is measured next
    kill_at: float | None = None  #: when engines that have been told to end are killed
    again: ModelSpec | None = None  #: the model has been ordered while its engines end
    _had_engine: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.spec.name

    @property
    def is_running(self) -> bool:
        """Whether any of its processes runs."""
        return any(engine.is_running for engine in self.engines)

    @property
    def is_wanted(self) -> bool:
        """Whether its processes are kept alive."""
        return self.phase in ("starting", "serving")

    @property
    def report(self) -> ModelReport:
        """The model for the HTTP process."""
        return ModelReport(
            name=self.name,
            phase=self.phase,
            reason=self.reason,
            bytes=self.bytes if self.is_running else 0,
            replicas=len(self.plan.replicas),
            first_child=self.engines[0].number if self.engines else -1,
        )

    @property
    def state(self) -> LoadedModel:
        """The model for ``tailrace doctor``."""
        pids = tuple(engine.pid for engine in self.engines)
        return LoadedModel(name=self.name, plan=self.plan, engines=pids, pools=self.spec.path is not None)

    def look(self, now: float) -> bool:
        """Take the phase from the engines' pages, and their memory from the kernel. Returns whether there is news."""
        if not self.is_wanted:
            return False
        before = self.phase, self.reason
        self.phase = "serving" if all(engine.serves for engine in self.engines) else "starting"
        self.reason = WAITS_FOR_WORKER if any(engine.waits_for_worker for engine in self.engines) else ""
        return self._measure(now) or (self.phase, self.reason) != before

    def _measure(self, now: float) -> bool:
        """Measure the memory, if it is time for that. Returns whether it has changed enough to be reported."""
        if self.phase != "serving" or now < self.measure_at:
            return False
        self.measure_at = now + _MEASURE_SECONDS
        measured = measure(self.engines)
        if measured is None or not is_news(measured, self.bytes):
            return False
        self.bytes = measured
        return True

    def on_death(self, engine: ChildProcess, status: int) -> float | Failure:
        """Seconds until the engine's next start, or why the model is given up."""
        reason, ready = engine.death_reason(status), engine.was_ready
        if status == EXIT_CONFIGURATION:
            words = reason.partition(": ")[2] or "the settings or the model can't work"
            return Failure(words, ready, settings=True)
        self._had_engine = self._had_engine or ready
        delay = engine.restarts.died(time.monotonic() - engine.started, ready=ready)
        if engine.has_aborted(status) and not self._had_engine:
            delay = None  # A check of llama.cpp has failed, and would fail again with the same file.
        if delay is None and any(other.serves for other in self.engines):
            delay = _RARE_RETRY_SECONDS
        return Failure(reason, ready) if delay is None else delay

    def fail(self, reason: str) -> None:
        """Give the model up: its engines end, and none is started until the model is ordered again."""
        self.reason = reason
        self.end("failed")

    def end(self, phase: ModelPhase) -> None:
        """Tell the engines to end. ``phase``: ``stopping`` or ``failed``."""
        self.phase = phase
        for engine in self.engines:
            engine.start_at = None
            if engine.is_running:
                engine.send(signal.SIGTERM)
                engine.send(signal.SIGCONT)  # A stopped process ends, too.
        if self.is_running:
            self.kill_at = time.monotonic() + UNLOAD_GRACE_SECONDS

    def kill_late(self, now: float) -> list[ChildProcess]:
        """Kill the engines that haven't ended in time, and return them."""
        if self.kill_at is None or now < self.kill_at:
            return []
        self.kill_at = None
        late = [engine for engine in self.engines if engine.is_running]
        for engine in late:
            engine.send(signal.SIGKILL)
        return late

    def forget(self) -> None:
        """Let go of the pages of processes that have ended."""
        for engine in self.engines:
            engine.forget()
