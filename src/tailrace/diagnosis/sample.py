"""Everything that is known at one moment, and what two such moments tell together."""

from __future__ import annotations

from functools import cached_property

import msgspec

from tailrace.diagnosis.machine_sample import MachineSample, OtherProcess, busy_seconds
from tailrace.diagnosis.process_sample import ProcessSample, ThreadSample
from tailrace.diagnosis.server_sample import EngineSample, ServerFacts, ServerSample


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One moment. ``time`` is the monotonic clock's, in seconds."""

    time: float
    server: ServerSample
    facts: ServerFacts
    machine: MachineSample = MachineSample()
    processes: dict[int, ProcessSample] = {}  #: the server's own, by pid
    others: tuple[OtherProcess, ...] = ()  #: CPU seconds per second of the busiest other processes, where looked for


class EngineInterval:
    """One engine between two samples. Rates are per second of the time between its reports."""

    def __init__(self, before: EngineSample, after: EngineSample) -> None:
        self.before = before
        self.after = after
        #: Seconds between the two reports; 0 where it has reported nothing since.
        self.seconds = max(0.0, after.reported_at - before.reported_at)

    def rate(self, name: str) -> float:
        """The growth of a counter per second."""
        if not self.seconds:
            return 0.0
        grown: float = getattr(self.after.counters, name) - getattr(self.before.counters, name)
        return max(0.0, grown) / self.seconds

    @property
    def busy(self) -> float:
        """The part of the time, 0 to 1, in which it computed steps or embeddings."""
        return min(1.0, self.rate("step_seconds") + self.rate("embedding_seconds"))

    def step_part(self, name: str) -> float:
        """A part of the steps' time, 0 to 1: the counter ``name`` ÷ the time of all steps."""
        total = self.rate("step_seconds")
        return self.rate(name) / total if total else 0.0

    @property
    def batch(self) -> float:
        """Mean number of sequences in a step."""
        steps = self.rate("steps")
        return self.rate("batch_sequences") / steps if steps else 0.0

    @property
    def read_rate(self) -> float:
        """Bytes of weights and KV per second of the model's passes; 0 where it isn't known."""
        decoding, engine = self.rate("decode_seconds"), self.after
        if not engine.weight_bytes or not decoding:
            return 0.0
        read = self.rate("steps") * engine.weight_bytes + self.rate("kv_cells_read") * engine.cell_bytes
        return read / decoding


class Interval:
    """Two samples of one server, the later one ``after``."""

    def __init__(self, before: Sample, after: Sample) -> None:
        self.before = before
        self.after = after
        self.facts = after.facts
        self.seconds = max(1e-3, after.time - before.time)

    @cached_property
    def engines(self) -> list[EngineInterval]:
        """The engines that were there in both samples."""
        earlier = {engine.pid: engine for engine in self.before.server.engines}
        return [
            EngineInterval(earlier[engine.pid], engine) for engine in self.after.server.engines if engine.pid in earlier
        ]

    @cached_property
    def busy(self) -> float:
        """The part of the time in which the busiest engine computed."""
        return max((engine.busy for engine in self.engines), default=0.0)

    def total(self, name: str) -> float:
        """The growth of a counter of all engines per second."""
        return sum(engine.rate(name) for engine in self.engines)

    def process(self, pid: int) -> tuple[ProcessSample, ProcessSample] | None:
        """A process in both samples."""
        before, after = self.before.processes.get(pid), self.after.processes.get(pid)
        return None if before is None or after is None else (before, after)

    @cached_property
    def http(self) -> tuple[ProcessSample, ProcessSample] | None:
        """The HTTP process in both samples."""
        return next((pair for pair in self.processes if pair[1].role == "http"), None)

    @cached_property
    def http_wait(self) -> float:
        """Seconds per second in which the HTTP process's threads were ready to run and had no CPU."""
        if self.http is None:
            return 0.0
        before, after = self.http
        pairs = [(before.threads[tid], thread) for tid, thread in after.threads.items() if tid in before.threads]
        return sum(later.wait - earlier.wait for earlier, later in pairs) / self.seconds

    @cached_property
    def engine_processes(self) -> list[tuple[ProcessSample, ProcessSample]]:
        """The server's processes that were there in both samples."""
        """The engines' processes in both samples."""
        return [pair for pair in self.processes if pair[1].role.startswith("engine")]

    def cpu(self, pair: tuple[ProcessSample, ProcessSample] | None) -> float:
        """CPU seconds per second of a process: 1.0 is one whole core."""
        return 0.0 if pair is None else max(0.0, pair[1].cpu - pair[0].cpu) / self.seconds

    @cached_property
    def engine_cpus(self) -> frozenset[int]:
        """The CPUs on which the engines may compute."""
        return frozenset().union(
            *(thread.allowed for _, after in self.engine_processes for thread in after.compute.values())
        )

    @cached_property
    def contention(self) -> Contention:
        """What the engines' compute threads waited for a CPU."""
        pairs = [
            (before.threads[tid], thread)
            for before, after in self.engine_processes
            for tid, thread in after.compute.items()
            if tid in before.threads
        ]
        return Contention(pairs, self.seconds)

    @cached_property
    def stolen(self) -> float:
        """The part of the engines' CPUs' time that a hypervisor gave to other machines."""
        times = [
            after.stolen - self.before.machine.cpus[cpu].stolen
            for cpu, after in self.after.machine.cpus.items()
            if cpu in self.engine_cpus and cpu in self.before.machine.cpus
        ]
        return sum(times) / (len(times) * self.seconds) if times else 0.0

    @cached_property
    def foreign_cpu(self) -> float:
        """CPU seconds per second that others than the server had on the engines' CPUs."""
        busy = busy_seconds(self.before.machine, self.after.machine, self.engine_cpus)
        own = sum(self.cpu(pair) for pair in self.processes if pair[1].allowed & self.engine_cpus)
        return max(0.0, busy / self.seconds - own) if self.engine_cpus else 0.0

    @cached_property
    def processes(self) -> list[tuple[ProcessSample, ProcessSample]]:
        """The server's processes that were there in both samples."""
        return [pair for pid in self.after.processes if (pair := self.process(pid)) is not None]


class Contention:
    """How long compute threads were ready to run and had no CPU."""

    #: A thread that wants a CPU for less than this part of the time isn't computing.
    _MIN_DEMAND = 0.05

    def __init__(self, pairs: list[tuple[ThreadSample, ThreadSample]], seconds: float) -> None:
        """``pairs``: each thread in both samples."""
        demands = [(after.run - before.run, after.wait - before.wait, before, after) for before, after in pairs]
        busy = [entry for entry in demands if entry[0] + entry[1] >= self._MIN_DEMAND * seconds]
        run, wait = sum(entry[0] for entry in busy), sum(entry[1] for entry in busy)
        self.threads = len(busy)  #: that compute
        self.wait = wait / (run + wait) if busy else 0.0  #: part of their time, 0 to 1
        #: Times a second that the kernel took their CPU away.
        self.involuntary = sum(after.involuntary - before.involuntary for _, _, before, after in busy) / seconds
