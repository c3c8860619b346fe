"""Two samples of a made-up server, one second apart: healthy and loaded, except for what a test changes."""

from __future__ import annotations

from typing import Any

import msgspec

from tailrace.diagnosis.machine_sample import CpuTime, MachineSample, OtherProcess
from tailrace.diagnosis.process_sample import ProcessSample, ThreadSample
from tailrace.diagnosis.sample import Sample
from tailrace.diagnosis.server_sample import EngineSample, ServerFacts, ServerSample, StreamSample
from tailrace.machine.cgroup import Throttling
from tailrace.protocol import EngineCounters

SUPERVISOR, HTTP, ENGINE = 1, 10, 20


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What happens in the second between the samples. Times are CPU seconds, parts are 0 to 1."""

    engines: int = 1
    connected: int = 1
    restarts: int = 0
    state: str = "R"
    silent: float = 0.1
    reports: bool = True  #: whether the engine has reported anything between the samples
    stalled: bool = False
    busy: float = 0.95  #: the engine's steps
    parts: dict[str, float] = {}  #: seconds of the step that aren't the model's pass, by counter
    steps: int = 50
    batch: int = 4
    preemptions: int = 0
    grammar_seconds: float = 0.0
    pass_bytes: int = 100_000_000
    bandwidth: float | None = 20e9
    threads: int = 2
    cpus: int = 2
    cores: int = 2
    quota: float | None = None
    wait: float = 0.0  #: seconds that each compute thread waited
    run: float = 0.9  #: seconds that each compute thread ran
    http_cpu: float = 0.05
    http_cpus: tuple[int, ...] = (1,)
    lag: float = 0.01
    foreign: float = 0.0  #: CPU seconds of other programs
    others: tuple[OtherProcess, ...] = ()
    stolen: float = 0.0  #: seconds of each CPU
    throttled: float = 0.0
    heat: int = 0  #: times that a CPU was slowed down
    cap: float = 1.0
    faults: int = 0
    swapped: int = 0
    swapped_in: int = 0
    stall: float = 0.0
    nodes: dict[int, int] = {}
    node_of: dict[int, int] = {}
    interleaved: bool = False
    kernels: str = "avx512-vnni"
    fastest: str = "avx512-vnni"
    files: int = 20
    refused: int = 0
    http_wait: float = 0.0
    late_masks: int = 0
    embeddings: float = 0.0  #: seconds of embedding passes
    running: int = 4
    waiting: tuple[int, int] = (0, 0)  #: in the two samples
    unaccepted: tuple[int, int] = (0, 0)
    oldest_wait: float = 0.0
    kv_used: int = 1000
    behind: tuple[int, int] = (0, 0)  #: of one stream, bytes
    disk_tier: bool = False
    models: tuple[str, ...] = ()  #: the name of each engine's model, where several are served


def samples(load: Load) -> tuple[Sample, Sample]:
    """The samples before and after ``load``."""
    return _sample(load, 0), _sample(load, 1)


def changed(**changes: Any) -> tuple[Sample, Sample]:
    """The samples of a healthy loaded server with these changes."""
    return samples(Load(**changes))


def _sample(load: Load, number: int) -> Sample:
    return Sample(
        time=100.0 + number,
        server=_server(load, number),
        facts=_facts(load),
        machine=_machine(load, number),
        processes=_processes(load, number),
        others=load.others if number else (),
    )


def _facts(load: Load) -> ServerFacts:
    return ServerFacts(
        model="m",
        replicas=load.engines,
        slots=8,
        threads=(load.threads,),
        planned_threads=load.cores,
        cores=load.cores,
        cpus=load.cpus,
        quota=load.quota,
        bandwidth=load.bandwidth,
        kernels=load.kernels,
        fastest_kernels=load.fastest,
        node_of=load.node_of,
        interleaved=load.interleaved,
        disk_tier=load.disk_tier,
    )


def _server(load: Load, number: int) -> ServerSample:
    counters = EngineCounters(
        steps=number * load.steps,
        decode_tokens=number * load.steps * load.batch,
        batch_sequences=number * load.steps * load.batch,
        kv_cells_read=number * load.steps * 100,
        decode_seconds=number * (load.busy - sum(load.parts.values())),
        preemptions=number * load.preemptions,
        grammar_seconds=number * load.grammar_seconds,
        late_masks=number * load.late_masks,
        embedding_seconds=number * load.embeddings,
    )
    parts = {name: number * seconds for name, seconds in load.parts.items()}
    counters = msgspec.structs.replace(counters, **parts)
    engines = tuple(
        EngineSample(
            replica=0 if load.models else replica,
            pid=ENGINE + replica,
            silent=load.silent,
            reported_at=100.0 + number * load.reports,
            stalled=load.stalled,
            running=load.running,
            waiting=load.waiting[number],
            kv_cells_used=load.kv_used,
            kv_cells=10_000,
            model=load.models[replica] if load.models else "",
            slots=8,
            weight_bytes=load.pass_bytes,
            cell_bytes=1000,
            counters=counters,
        )
        for replica in range(load.connected)
    )
    return ServerSample(
        engines=engines,
        running=load.running,
        waiting=load.waiting[number],
        unaccepted=load.unaccepted[number],
        oldest_wait=load.oldest_wait,
        refused=3 + number * load.refused,
        engine_starts=1 + number * load.restarts,
        loop_lag=load.lag,
        slow_streams=(StreamSample(identity=7, client="192.0.2.7", behind=load.behind[number], moved=number * 500),)
        if load.behind[number]
        else (),
    )


def _machine(load: Load, number: int) -> MachineSample:
    own = load.threads * load.run + (load.http_cpu if set(load.http_cpus) & set(range(load.cpus)) else 0.0)
    each = (own + load.foreign) / load.cpus
    throttling = Throttling("/sys/fs/cgroup/x", 1.5, 10 * number, 9 * number, number * load.throttled)
    return MachineSample(
        cpus={cpu: CpuTime(number * each, number * load.stolen) for cpu in range(load.cpus)},
        swapped_in=number * load.swapped_in,
        available=8_000_000_000,
        memory=16_000_000_000,
        memory_stall=number * load.stall,
        throttling=(throttling,) if load.throttled else (),
        thermal=dict.fromkeys(range(load.cpus), 5 + number * load.heat),
        clock_caps={0: load.cap} if load.cap < 1 else {},
    )


def _processes(load: Load, number: int) -> dict[int, ProcessSample]:
    cpus = frozenset(range(load.cpus))
    http = ProcessSample(
        pid=HTTP,
        role="http",
        state="S",
        cpu=number * load.http_cpu,
        memory=60_000_000,
        swapped=0,
        major_faults=0,
        threads={HTTP: _thread(number, load.http_cpu, load.http_wait, frozenset(load.http_cpus))},
        files=load.files,
        max_files=1000,
    )
    found = {HTTP: http}
    for replica in range(load.connected):
        pid = ENGINE + replica
        found[pid] = ProcessSample(
            pid=pid,
            role="engine",
            state=load.state,
            cpu=number * load.threads * load.run,
            memory=500_000_000,
            swapped=load.swapped,
            major_faults=number * load.faults,
            threads={pid + 100 * each: _thread(number, load.run, load.wait, cpus) for each in range(load.threads)},
            nodes=load.nodes,
        )
    return found


def _thread(number: int, run: float, wait: float, allowed: frozenset[int]) -> ThreadSample:
    return ThreadSample(
        name="python",
        run=number * run,
        wait=number * wait,
        involuntary=number * 40,
        allowed=allowed,
    )
