"""Takes samples of one server: reads /proc and /sys for its processes, and remembers what is read rarely."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from tailrace.diagnosis.machine_sample import (
    OtherProcess,
    last_cpus,
    read_machine,
    read_other_processes,
    shown_name,
)
from tailrace.diagnosis.process_sample import LOADING, ProcessSample, read_process
from tailrace.diagnosis.processor_rules import MIN_FOREIGN, MIN_WAIT
from tailrace.diagnosis.sample import Interval, Sample
from tailrace.diagnosis.server_sample import ServerFacts, ServerSample
from tailrace.machine.applied_placement import read_memory_nodes
from tailrace.observe.process_stats import child_pids

#: Seconds between two readings of an engine's memory by node: the kernel walks through its page tables for it.
_NODES_SECONDS = 60.0
#: Seconds for which a look at all processes can be compared with the next one.
_LOOK_SECONDS = 30.0
#: Seconds that two looks are apart at least: CPU time has steps of 10 ms.
MIN_LOOK_SECONDS = 0.2
#: Other processes that are named, and the CPU seconds per second from which they are.
_MAX_NAMED = 3
_MIN_NAMED = 0.02


class Sampler:
    """See the module. It runs only when it is called."""

    def __init__(self, supervisor: int, http: int, root: Path = Path("/")) -> None:
        """``supervisor`` and ``http``: process ids. ``root``: where /proc and /sys are."""
        self._supervisor = supervisor
        self._http = http
        self._root = root
        self._nodes: dict[int, tuple[float, dict[int, int]]] = {}  #: memory by node, by pid, and when it was read
        self._look: tuple[float, dict[int, OtherProcess]] | None = None

    def take(self, server: ServerSample, facts: ServerFacts, now: float | None = None) -> Sample:
        """The sample of this moment (``now`` by the monotonic clock)."""
        roles = {self._http: "http", self._supervisor: "supervisor"}
        for engine in server.engines:
            roles[engine.pid] = engine.role(several=facts.replicas != 1)
        if len(server.engines) < facts.replicas:
            for pid in child_pids(self._supervisor, self._root / "proc"):
                roles.setdefault(pid, LOADING)
        now = time.monotonic() if now is None else now
        processes: dict[int, ProcessSample] = {}
        for pid, role in roles.items():
            if (process := read_process(pid, role, self._root, files=role == "http")) is not None:
                if facts.node_of and role.startswith("engine"):
                    process = msgspec.structs.replace(process, nodes=self._memory_nodes(pid, now))
                processes[pid] = process
        engines = [process for process in processes.values() if process.role.startswith("engine")]
        cpus = frozenset[int]().union(*(engine.allowed for engine in engines))
        limited = engines[0].pid if engines else self._http
        machine = read_machine(cpus, limited, self._root)
        return Sample(time=now, server=server, facts=facts, machine=machine, processes=processes)

    def wants_names(self, before: Sample, after: Sample) -> bool:
        """Whether other processes harm the engine, so that it is worth to look at each process of the machine."""
        interval = Interval(before, after)
        return interval.foreign_cpu >= MIN_FOREIGN and interval.contention.wait >= MIN_WAIT

    def name_others(self, cpus: frozenset[int], now: float | None = None) -> tuple[OtherProcess, ...] | None:
        """The processes that have used the most CPU time on ``cpus`` since the last look, with their CPU seconds per
        second, the busiest first. None at the first look, and where the last one is too old or too fresh.
        """
        now = time.monotonic() if now is None else now
        last = self._look
        if last is not None and now - last[0] < MIN_LOOK_SECONDS:
            return None
        processes = read_other_processes(self._supervisor, self._root)
        self._look = (now, processes)
        if last is None or now - last[0] > _LOOK_SECONDS:
            return None
        seconds = now - last[0]
        # A process that has begun since then has used all of its time since then.
        before = {pid: process.cpu for pid, process in last[1].items()}
        for pid, process in last[1].items():
            if pid not in processes:  # Its parent has its time now, that of before included.
                before[process.parent] = before.get(process.parent, 0.0) + process.cpu
        used = [
            OtherProcess(pid, process.name, max(0.0, process.cpu - before.get(pid, 0.0)) / seconds)
            for pid, process in processes.items()
        ]
        busiest = sorted(used, key=lambda process: process.cpu, reverse=True)[: 4 * _MAX_NAMED]
        named = [
            OtherProcess(process.pid, shown_name(process, self._root), process.cpu)
            for process in busiest
            if process.cpu >= _MIN_NAMED and last_cpus(process.pid, self._root) & cpus
        ]
        return tuple(named[:_MAX_NAMED])

    def _memory_nodes(self, pid: int, now: float) -> dict[int, int]:
        read = self._nodes.get(pid)
        if read is None or now - read[0] >= _NODES_SECONDS:
            self._nodes = {known: entry for known, entry in self._nodes.items() if now - entry[0] < _NODES_SECONDS}
            self._nodes[pid] = read = (now, read_memory_nodes(self._root / f"proc/{pid}/numa_maps", files=True))
        return read[1]
