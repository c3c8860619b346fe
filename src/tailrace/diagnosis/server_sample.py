"""The server at one moment, as its HTTP process knows it: requests, engines, streams, and what never changes."""

from __future__ import annotations

import msgspec

from tailrace.protocol import DeviceShare, EngineCounters, SpeedComparison, WorkerFigures
from tailrace.worker_protocol.device_reading import DeviceReading


class EngineSample(msgspec.Struct, frozen=True, kw_only=True):
    """One engine, as of its last heartbeat."""

    replica: int
    pid: int
    silent: float  #: seconds since it has sent anything
    reported_at: float  #: when its counters came, by the clock of ``Sample.time``
    stalled: bool = False  #: silent for so long that health says so
    running: int = 0
    waiting: int = 0
    kv_cells_used: int = 0
    kv_cells: int = 0
    model: str = ""  #: the name of its model, where several are served
    slots: int = 0  #: requests that it decodes at the same time
    weight_bytes: int = 0  #: weights that a step with one token reads; 0: not known
    cell_bytes: int = 0  #: KV of one token
    counters: EngineCounters = msgspec.field(default_factory=EngineCounters)
    speed: SpeedComparison | None = None  #: of a placed model
    workers: tuple[WorkerFigures, ...] = ()  #: the same

    def role(self, *, several: bool) -> str:
        """The name of its process; ``several``: whether there are several engines."""
        if self.model:
            return f"engine {self.model} {self.replica}" if self.replica else f"engine {self.model}"
        return f"engine {self.replica}" if several else "engine"


class StreamSample(msgspec.Struct, frozen=True, kw_only=True):
    """A stream whose client hasn't received all of it."""

    identity: int  #: the same in each sample
    client: str  #: the client's address or its key's name
    behind: int  #: bytes that wait for the client
    moved: int  #: bytes that the client has received so far


class HistogramSample(msgspec.Struct, frozen=True):
    """How often a time was at most as long as each bound, since the server's start. The last bound is infinite."""

    bounds: tuple[float, ...] = ()  #: seconds
    counts: tuple[float, ...] = ()  #: cumulative

    def since(self, earlier: HistogramSample) -> HistogramSample:
        """The times after ``earlier``."""
        if self.bounds != earlier.bounds:
            return self
        pairs = zip(self.counts, earlier.counts, strict=True)
        return HistogramSample(self.bounds, tuple(count - before for count, before in pairs))

    def percentile(self, part: float) -> float | None:
        """The time below which ``part`` (0 to 1) of them are, interpolated; None where there are none.

        Times beyond the last finite bound count as that bound.
        """
        total = self.counts[-1] if self.counts else 0
        if not total:
            return None
        lower, below = 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= part * total and count > below:
                return (
                    lower
                    if bound == float("inf")
                    else lower + (bound - lower) * (part * total - below) / (count - below)
                )
            lower, below = bound, count
        return lower


class ServerSample(msgspec.Struct, frozen=True, kw_only=True):
    """The requests and engines at one moment. Counts are totals since the HTTP process's start."""

    engines: tuple[EngineSample, ...] = ()  #: those that are connected
    running: int = 0  #: generations that the engines work on
    waiting: int = 0  #: generations that have been submitted and don't run
    unaccepted: int = 0  #: of them, those whose prompt or grammar isn't checked yet
    oldest_wait: float = 0.0  #: seconds since the oldest of the waiting generations was submitted
    refused: int = 0  #: requests that were refused because too many waited
    engine_starts: int = 0
    loop_lag: float = 0.0  #: seconds by which the event loop was late at most, in the last seconds
    slow_streams: tuple[StreamSample, ...] = ()
    first_token: HistogramSample = HistogramSample()
    inter_token: HistogramSample = HistogramSample()
    hardware: tuple[DeviceReading, ...] = ()  #: the devices of this machine

    @property
    def slots(self) -> int:
        """Requests that all engines decode at the same time."""
        return sum(engine.slots for engine in self.engines)


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What doesn't change while a server runs."""

    model: str = ""  #: the model's description; of several the names of those that are loaded
    models: int = 1  #: that are served
    replicas: int = 1  #: engines that there should be
    slots: int = 1  #: requests that each engine decodes at the same time, where none is connected
    threads: tuple[int, ...] = ()  #: compute threads of each replica
    planned_threads: int = 0  #: compute threads of a replica that tailrace would choose; 0: not known
    cores: int = 1  #: physical cores that the server may use
    cpus: int = 1  #: CPUs that the server may use
    quota: float | None = None  #: the CPU quota at the start
    bandwidth: float | None = None  #: measured bytes per second of memory; None: not measured yet
    kernels: str = ""  #: the kernels' instruction tier in use; empty: upstream's
    fastest_kernels: str = ""  #: the fastest tier that this CPU has; empty: none
    kernels_reason: str = ""  #: why another tier is used
    devices: tuple[DeviceShare, ...] = ()  #: of a placed model
    placement_differences: tuple[str, ...] = ()  #: from its plan
    node_of: dict[int, int] = {}  #: the NUMA node of each CPU; empty with one node
    interleaved: bool = False  #: memory is planned on several nodes
    disk_tier: bool = False  #: whether prefix states may be on disk
