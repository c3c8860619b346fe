"""What the HTTP process knows for a sample: its requests, its engines, and what doesn't change while they run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from tailrace.device_figures.device_watch import DeviceWatch
from tailrace.diagnosis.core_use import CpuPlace
from tailrace.diagnosis.measured_bandwidth import MeasuredBandwidth
from tailrace.diagnosis.server_sample import EngineSample, HistogramSample, ServerFacts, ServerSample
from tailrace.errors import ConfigurationError
from tailrace.machine.plan import MachinePlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import Topology, read_topology
from tailrace.observe.metrics import Metrics
from tailrace.server.admission import AdmissionQueue
from tailrace.server.engine_connection import EngineConnection
from tailrace.server.loop_lag import LoopLag
from tailrace.server.models.model_directory import ModelDirectory
from tailrace.server.models.model_service import ModelService
from tailrace.server.open_streams import OpenStreams
from tailrace.settings import Settings


class StatsSource:
    """See the module. Reading it takes microseconds."""

    def __init__(
        self,
        settings: Settings,
        plan: MachinePlan | None,
        models: ModelDirectory,
        loop_lag: LoopLag,
        metrics: Metrics,
        streams: OpenStreams,
        admission: AdmissionQueue,
        hardware: DeviceWatch,
    ) -> None:
        """``plan``: the machine plan that the default model's engines were started with; None: not known.
        ``loop_lag``: how late the event loop is. ``hardware``: the devices of this machine.
        """
        self._admission = admission
        self._hardware = hardware
        self._plan = plan
        self._models = models
        self._loop_lag = loop_lag
        self._metrics = metrics
        self._streams = streams
        self._topology = _topology_of(os.getppid())
        self._planned_threads = _planned_threads(self._topology, settings)

    @property
    def topology(self) -> Topology:
        """The machine, with the CPUs that the supervisor may use: this process may be bound to fewer."""
        return self._topology

    @property
    def places(self) -> list[CpuPlace]:
        """Where each CPU of the machine is."""
        topology = self._topology
        return [
            CpuPlace(cpu, number, core.node, cpu in topology.usable)
            for number, core in enumerate(topology.cores)
            for cpu in core.cpus
        ]

    async def refresh(self) -> None:
        """Have the devices' figures read again, where they aren't new. It waits for a moment at most."""
        await self._hardware.refresh()

    def is_busy(self) -> bool:
        """Whether requests run or wait."""
        services = self._models.services
        return any(service.engine.running or service.engine.waiting or service.waiting for service in services)

    def observe(self) -> ServerSample:
        """The requests and engines now."""
        services, now = self._models.services, time.monotonic()
        engines = [service.engine for service in services]
        starts = sum(engine.engine_starts for engine in engines)
        if self._models.on_demand:  # An engine that was loaded hasn't replaced another.
            starts -= sum(service.figures.loads for service in services)
        return ServerSample(
            engines=tuple(
                self._engine_sample(service, connection, now)
                for service in services
                for connection in service.engine.connections
            ),
            running=sum(engine.running for engine in engines),
            waiting=sum(service.engine.waiting + service.waiting for service in services),
            unaccepted=sum(engine.unanswered for engine in engines),
            oldest_wait=max(engine.oldest_wait() for engine in engines),
            refused=self._admission.refused,
            engine_starts=starts,
            loop_lag=self._loop_lag.worst(),
            slow_streams=self._streams.behind(),
            first_token=HistogramSample(*self._metrics.first_token_buckets()),
            inter_token=HistogramSample(*self._metrics.inter_token_buckets()),
            hardware=self._hardware.latest(),
        )

    def _engine_sample(self, service: ModelService, connection: EngineConnection, now: float) -> EngineSample:
        heartbeat, info = connection.heartbeat, service.info
        sample = EngineSample(
            replica=connection.replica,
            pid=connection.pid,
            silent=now - connection.last_heard,
            reported_at=connection.heartbeat_at,
            stalled=service.engine.is_stalled(connection),
            running=connection.running,
            waiting=max(0, connection.submitted - connection.running),
            kv_cells=connection.kv_cells,
            model=service.name if self._models.on_demand else "",
            slots=connection.parallel,
            weight_bytes=0 if info is None else info.pass_bytes,
            cell_bytes=0 if info is None else info.cell_bytes,
        )
        if heartbeat is None:
            return sample
        return msgspec.structs.replace(
            sample,
            kv_cells_used=heartbeat.kv_cells_used,
            counters=heartbeat.counters,
            speed=heartbeat.speed,
            workers=heartbeat.workers,
        )

    def facts(self, bandwidth: MeasuredBandwidth | None) -> ServerFacts:
        """What doesn't change while the engines run."""
        topology, services = self._topology, self._models.services
        loaded = [service for service in services if service.engine.is_connected]
        # Engines of one server have the same kernels; what else differs is in each engine's sample.
        main = (loaded or services)[0]
        info = main.info
        replicas = () if self._plan is None else self._plan.replicas
        nodes = [replica.node for replica in replicas] or [None]
        several = self._models.on_demand
        wanted = [service for service in services if service.phase in ("starting", "serving")]
        description = "" if info is None else info.description
        return ServerFacts(
            model=", ".join(service.name for service in loaded) if several else description,
            models=len(services),
            replicas=sum(service.replicas for service in wanted) if several else max(1, len(replicas)),
            slots=main.spec.settings.parallel,
            threads=tuple(max(replica.decode.threads, replica.prefill.threads) for replica in replicas),
            planned_threads=self._planned_threads,
            cores=len(topology.usable_cores),
            cpus=len(topology.usable),
            quota=topology.quota,
            bandwidth=None if bandwidth is None else min(map(bandwidth.of, nodes)) or None,
            kernels="" if info is None else info.kernels,
            fastest_kernels="" if info is None else info.fastest_kernels,
            kernels_reason="" if info is None else info.kernels_reason,
            devices=() if info is None else info.devices,
            placement_differences=() if info is None else info.placement_differences,
            node_of={cpu: core.node for core in topology.cores for cpu in core.cpus} if len(topology.nodes) > 1 else {},
            interleaved=any(replica.interleave for replica in replicas),
            disk_tier=any(service.spec.settings.keep_disk_mb > 0 for service in loaded or services),
        )


def _topology_of(pid: int) -> Topology:
    affinity = None
    if hasattr(os, "sched_getaffinity"):
        try:
            affinity = frozenset(os.sched_getaffinity(pid))
        except OSError:
            pass  # The supervisor has ended: this process will, too.
    return read_topology(Path("/"), affinity)


def _planned_threads(topology: Topology, settings: Settings) -> int:
    """Compute threads of a replica where nothing is set; 0 where no plan can be made."""
    unset = Settings(model=settings.model)
    try:
        return make_plan(topology, unset).replicas[0].decode.threads
    except ConfigurationError:
        return 0
