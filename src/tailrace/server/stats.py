"""Samples of this server, and the answer of ``/stats`` made of them. Nothing runs between two requests for it.

Requests for the answer share samples: however many clients ask, there is one sample in half a second.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from tailrace.diagnosis.core_use import CpuPlace
from tailrace.diagnosis.machine_sample import OtherProcess
from tailrace.diagnosis.measured_bandwidth import BandwidthStore
from tailrace.diagnosis.report import Stats, make_stats
from tailrace.diagnosis.sample import Interval, Sample
from tailrace.diagnosis.sampler import MIN_LOOK_SECONDS, Sampler
from tailrace.diagnosis.server_sample import ServerFacts, ServerSample
from tailrace.server.bandwidth_measurement import BandwidthMeasurement
from tailrace.server.stats_source import StatsSource

#: Seconds between two samples that are compared. Less is within the kernel's CPU clock of 10 ms and an engine's
#: heartbeats of half a second.
_MIN_SECONDS = 1.0
#: Older samples aren't compared with: the findings are about now.
_MAX_SECONDS = 10.0
#: Seconds for which a sample is shared by all that ask.
_SHARED_SECONDS = 0.5
#: Seconds for which the names of other programs are shown before all processes are looked at again.
_NAMED_SECONDS = 4.0
#: Seconds of samples that are remembered, for latencies.
_REMEMBERED_SECONDS = 60.0


class ServerStats:
    """See the module."""

    def __init__(
        self,
        sampler: Sampler,
        observe: Callable[[], ServerSample],
        facts: Callable[[], ServerFacts],
        *,
        bandwidth: BandwidthMeasurement,
        places: list[CpuPlace] | None = None,
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``observe`` and ``facts`` are called once for each sample, after ``refresh``. ``places``: where each CPU is.
        ``refresh`` takes a fraction of a second at most.
        """
        self._refresh = refresh
        self._places = places or []
        self._sampler = sampler
        self._observe = observe
        self._facts = facts
        self._bandwidth = bandwidth
        self._samples: deque[Sample] = deque()
        self._others: tuple[OtherProcess, ...] = ()
        self._others_at = float("-inf")  #: when they were looked at
        self._sampling = asyncio.Lock()

    @property
    def places(self) -> list[CpuPlace]:
        """Where each CPU of the machine is."""
        return self._places

    async def stats(self, *, reveal: Callable[[str], bool]) -> Stats:
        """What limits the server now; see ``look``."""
        return (await self.look(reveal=reveal))[1]

    async def look(self, *, reveal: Callable[[str], bool]) -> tuple[Interval, Stats]:
        """The two samples of now, and what limits the server. The first call, and one after a pause, takes a second.

        ``reveal``: whether the reader may see this client's name; asked with an empty name for other programs' names.
        """
        async with self._sampling:
            before, after = await self._pair()
        oldest = self._samples[0]
        before, after = _hidden(before, reveal), _hidden(after, reveal)
        return Interval(before, after), make_stats(before, after, oldest)

    async def _pair(self) -> tuple[Sample, Sample]:
        """The newest sample, and the one to compare it with."""
        now = time.monotonic()
        if not self._samples or now - self._samples[-1].time >= _SHARED_SECONDS:
            await self._take()
        if (before := self._earlier()) is None:
            before = self._samples[-1]
            await asyncio.sleep(_MIN_SECONDS)
            await self._take()
        after = self._samples[-1]
        if self._sampler.wants_names(before, after):
            after = msgspec.structs.replace(after, others=await self._name_others(before, after))
        self._bandwidth.consider(before, after)
        return before, after

    async def _take(self) -> None:
        if self._refresh is not None:
            await self._refresh()
        self._samples.append(self._sampler.take(self._observe(), self._facts()))
        newest = self._samples[-1].time
        while newest - self._samples[0].time > _REMEMBERED_SECONDS:
            self._samples.popleft()

    def _earlier(self) -> Sample | None:
        """The youngest sample that is old enough to be compared with the newest one."""
        newest = self._samples[-1].time
        ages = ((newest - sample.time, sample) for sample in reversed(self._samples))
        return next((sample for age, sample in ages if _MIN_SECONDS <= age <= _MAX_SECONDS), None)

    async def _name_others(self, before: Sample, after: Sample) -> tuple[OtherProcess, ...]:
        """The other programs on the engine's CPUs. Every process of the machine is read for it, on a thread."""
        if time.monotonic() - self._others_at < _NAMED_SECONDS:
            return self._others
        cpus = Interval(before, after).engine_cpus
        found = await asyncio.to_thread(self._sampler.name_others, cpus)
        if found is None and time.monotonic() - self._others_at > _MAX_SECONDS:
            await asyncio.sleep(MIN_LOOK_SECONDS)
            found = await asyncio.to_thread(self._sampler.name_others, cpus)
        if found is not None:
            self._others, self._others_at = found, time.monotonic()
        return self._others


def _hidden(sample: Sample, reveal: Callable[[str], bool]) -> Sample:
    """The sample with the names that its reader may see."""
    streams = tuple(
        stream if reveal(stream.client) else msgspec.structs.replace(stream, client="of another user")
        for stream in sample.server.slow_streams
    )
    others = sample.others
    if not reveal(""):
        others = tuple(OtherProcess(0, "another program", other.cpu) for other in others)
    server = msgspec.structs.replace(sample.server, slow_streams=streams)
    return msgspec.structs.replace(sample, server=server, others=others)


def server_stats(source: StatsSource) -> ServerStats:
    """The statistics of this process's own server."""
    store = BandwidthStore()
    measurement = BandwidthMeasurement(store, source.topology.usable, source.is_busy)
    measurement.record = store.find(source.topology)
    sampler = Sampler(os.getppid(), os.getpid())
    return ServerStats(
        sampler,
        source.observe,
        lambda: source.facts(measurement.record),
        bandwidth=measurement,
        places=source.places,
        refresh=source.refresh,
    )
