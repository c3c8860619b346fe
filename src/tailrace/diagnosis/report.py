"""The JSON of ``/stats``: numbers of one interval, and the findings. Made of two samples; pure.

Parts are from 0 to 1, times are in seconds, sizes in bytes, and CPU in CPU seconds per second (1.0 is a whole core).
"""

from __future__ import annotations

import msgspec

from tailrace.diagnosis.catalogue import Finding
from tailrace.diagnosis.diagnose import diagnose
from tailrace.diagnosis.hardware_report import HardwareStats, hardware_stats
from tailrace.diagnosis.process_sample import ProcessSample
from tailrace.diagnosis.sample import EngineInterval, Interval, Sample
from tailrace.diagnosis.server_sample import HistogramSample
from tailrace.protocol import DeviceShare, SpeedComparison


class Percentiles(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of a time; None where nothing was measured."""

    p50: float | None
    p90: float | None
    p99: float | None


class RequestStats(msgspec.Struct, frozen=True, kw_only=True):
    """Generations now."""

    running: int
    waiting: int
    slots: int  #: how many can run at the same time
    oldest_wait: float  #: of those that wait


class TokenStats(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens per second, all engines together."""

    generated: float
    prompt: float  #: computed prompt tokens
    cached_part: float | None  #: the part of looked-up prompt tokens that the prefix cache had
    accepted_part: float | None  #: the part of draft tokens that were right


class LatencyStats(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the requests of the last minute, or since ``/stats`` was first read."""

    window: float
    first_token: Percentiles
    inter_token: Percentiles


class StepStats(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's time, as parts of the interval; the rest is idle."""

    schedule: float
    decode: float
    masks: float
    sample: float
    publish: float
    embeddings: float


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """One engine."""

    model: str | None = None  #: the name of its model, where several are served
    replica: int
    pid: int
    silent: float  #: seconds since it has sent anything
    running: int
    waiting: int
    steps: float  #: per second
    batch: float  #: mean number of sequences in a step
    step_seconds: float  #: mean duration of a step
    kv_used: int  #: cells
    kv_cells: int
    read_rate: float | None  #: bytes of weights and KV per second of the model's passes
    parts: StepStats
    speed: SpeedComparison | None = None  #: predicted and measured, of a model that is divided between devices


class ProcessStats(msgspec.Struct, frozen=True, kw_only=True):
    """One process of the server."""

    role: str
    pid: int
    state: str  #: the kernel's letter
    cpu: float
    memory: int
    threads: int
    wait: float  #: seconds per second in which its threads were ready and had no CPU, added up
    involuntary: float  #: context switches per second
    major_faults: float  #: per second


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer. ``limit`` is the code of the first finding."""

    model: str
    interval: float
    limit: str
    findings: list[Finding]
    requests: RequestStats
    tokens: TokenStats
    latency: LatencyStats
    engines: list[EngineStats]
    processes: list[ProcessStats]
    bandwidth: float | None  #: measured bytes per second of memory; None: not measured yet
    devices: tuple[DeviceShare, ...] = ()  #: of a model that is divided between several
    placement_differences: tuple[str, ...] = ()  #: from its planned placement
    hardware: HardwareStats = HardwareStats()  #: the devices' figures, and what goes over the links to workers


def make_stats(before: Sample, after: Sample, oldest: Sample | None = None) -> Stats:
    """The answer for two samples. ``oldest``: the sample from which latencies count."""
    interval, server, facts = Interval(before, after), after.server, after.facts
    findings = diagnose(before, after)
    oldest = oldest or before
    queries, drafts = interval.total("prefix_queries"), interval.total("draft_tokens")
    return Stats(
        model=facts.model,
        interval=interval.seconds,
        limit=findings[0].code,
        findings=findings,
        requests=RequestStats(
            running=server.running,
            waiting=server.waiting,
            slots=server.slots or facts.slots,
            oldest_wait=server.oldest_wait,
        ),
        tokens=TokenStats(
            generated=interval.total("decode_tokens"),
            prompt=interval.total("prefill_tokens"),
            cached_part=interval.total("prefix_hits") / queries if queries else None,
            accepted_part=interval.total("accepted_tokens") / drafts if drafts else None,
        ),
        latency=LatencyStats(
            window=after.time - oldest.time,
            first_token=_percentiles(server.first_token.since(oldest.server.first_token)),
            inter_token=_percentiles(server.inter_token.since(oldest.server.inter_token)),
        ),
        engines=[_engine(each) for each in interval.engines],
        processes=[_process(pair, interval) for pair in interval.processes],
        bandwidth=facts.bandwidth,
        devices=facts.devices,
        placement_differences=facts.placement_differences,
        hardware=hardware_stats(interval),
    )


def _percentiles(times: HistogramSample) -> Percentiles:
    return Percentiles(p50=times.percentile(0.5), p90=times.percentile(0.9), p99=times.percentile(0.99))


def _engine(engine: EngineInterval) -> EngineStats:
    after, steps = engine.after, engine.rate("steps")
    return EngineStats(
        model=after.model or None,
        replica=after.replica,
        pid=after.pid,
        silent=after.silent,
        running=after.running,
        waiting=after.waiting,
        steps=steps,
        batch=engine.batch,
        step_seconds=engine.rate("step_seconds") / steps if steps else 0.0,
        kv_used=after.kv_cells_used,
        kv_cells=after.kv_cells,
        read_rate=engine.read_rate or None,
        parts=StepStats(
            schedule=engine.rate("schedule_seconds"),
            decode=engine.rate("decode_seconds"),
            masks=engine.rate("mask_wait_seconds"),
            sample=engine.rate("sample_seconds"),
            publish=engine.rate("publish_seconds"),
            embeddings=engine.rate("embedding_seconds"),
        ),
        speed=after.speed,
    )


def _process(pair: tuple[ProcessSample, ProcessSample], interval: Interval) -> ProcessStats:
    before, after = pair
    threads = [(before.threads[tid], thread) for tid, thread in after.threads.items() if tid in before.threads]
    wait = sum(later.wait - earlier.wait for earlier, later in threads)
    switches = sum(later.involuntary - earlier.involuntary for earlier, later in threads)
    return ProcessStats(
        role=after.role,
        pid=after.pid,
        state=after.state,
        cpu=interval.cpu(pair),
        memory=after.memory,
        threads=len(after.threads),
        wait=wait / interval.seconds,
        involuntary=switches / interval.seconds,
        major_faults=(after.major_faults - before.major_faults) / interval.seconds,
    )
