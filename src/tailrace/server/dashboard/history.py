"""The last minutes of throughput, queue and latencies: so that a page that opens shows more than the present.

A point is taken once a second, at a tick of the timer that runs anyway. It adds up what the HTTP process has in memory:
no file is read for it, and nothing is asked.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple, TypeVar

import msgspec

from tailrace.diagnosis.server_sample import HistogramSample
from tailrace.observe.buckets import FIRST_TOKEN_SECONDS, TOKEN_SECONDS
from tailrace.server.engine_connection import EngineConnection
from tailrace.server.models.model_service import ModelService

#: Seconds between two points, with some less for a tick that comes early.
INTERVAL_SECONDS = 1.0
_MIN_SECONDS = 0.9
#: Points that are kept: five minutes.
_MAX_POINTS = 300
#: Seconds over which percentiles are taken.
WINDOW_SECONDS = 10.0
_FIRST_BOUNDS = (*FIRST_TOKEN_SECONDS, float("inf"))
_GAP_BOUNDS = (*TOKEN_SECONDS, float("inf"))

Counts = tuple[int, ...]
Key = TypeVar("Key")


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Columns with a value for each point, oldest first. Times of percentiles are in seconds; null: none measured."""

    interval: float = INTERVAL_SECONDS  #: seconds between two points
    window: float = WINDOW_SECONDS  #: seconds over which percentiles are taken
    time: list[float]  #: Unix time in seconds
    generated: list[float]  #: tokens a second, all engines together
    prompt: list[float]  #: computed prompt tokens a second
    running: list[int]
    waiting: list[int]
    kv_part: list[float]  #: the part of all KV cells that is used, 0 to 1
    first_token_p50: list[float | None]
    first_token_p99: list[float | None]
    inter_token_p50: list[float | None]
    inter_token_p99: list[float | None]


class _Point(NamedTuple):
    """The columns' values, in their order."""

    time: float
    generated: float
    prompt: float
    running: int
    waiting: int
    kv_part: float
    first_token_p50: float | None
    first_token_p99: float | None
    inter_token_p50: float | None
    inter_token_p99: float | None


class _Engine(NamedTuple):
    """One engine's totals, as of its last heartbeat."""

    reported_at: float
    generated: int
    prompt: int


class _Totals(NamedTuple):
    """All engines' totals at one moment, by process id and by model."""

    at: float  #: monotonic seconds
    engines: dict[int, _Engine]
    first_token: dict[str, Counts]
    inter_token: dict[int, Counts]


class HistoryRecorder:
    """See the module. ``tick`` is called about twice a second."""

    def __init__(
        self,
        services: Callable[[], Iterable[ModelService]],
        waiting: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``services``: the served models that have engines; ``waiting``: how many requests wait."""
        self._services = services
        self._waiting = waiting
        self._clock = clock
        self._points: deque[_Point] = deque(maxlen=_MAX_POINTS)
        self._totals: deque[_Totals] = deque()

    def tick(self) -> None:
        """Take a point, where the last one is a second old."""
        now = self._clock()
        last = self._totals[-1] if self._totals else None
        if last is not None and now - last.at < _MIN_SECONDS:
            return
        services = list(self._services())
        connections = [connection for service in services for connection in service.engine.connections]
        totals = _totals(now, services, connections)
        self._totals.append(totals)
        while now - self._totals[0].at > WINDOW_SECONDS + _MIN_SECONDS:
            self._totals.popleft()
        if last is not None:
            self._points.append(self._point(totals, last, connections))

    def since(self, after: float) -> History:
        """The points after this Unix time."""
        points = [point for point in self._points if point.time > after]
        columns = {name: [point[index] for point in points] for index, name in enumerate(_Point._fields)}
        return msgspec.convert(columns, History)

    def _point(self, totals: _Totals, last: _Totals, connections: Sequence[EngineConnection]) -> _Point:
        oldest = self._totals[0]
        first = _grown(totals.first_token, oldest.first_token, _FIRST_BOUNDS)
        gaps = _grown(totals.inter_token, oldest.inter_token, _GAP_BOUNDS)
        cells = sum(connection.kv_cells for connection in connections)
        used = sum(each.heartbeat.kv_cells_used for each in connections if each.heartbeat is not None)
        return _Point(
            time=round(time.time(), 2),
            generated=round(_rate(totals, last, "generated"), 1),
            prompt=round(_rate(totals, last, "prompt"), 1),
            running=sum(connection.running for connection in connections),
            waiting=self._waiting(),
            kv_part=round(used / cells, 4) if cells else 0.0,
            first_token_p50=_percentile(first, 0.5),
            first_token_p99=_percentile(first, 0.99),
            inter_token_p50=_percentile(gaps, 0.5),
            inter_token_p99=_percentile(gaps, 0.99),
        )


def _totals(now: float, services: Sequence[ModelService], connections: Sequence[EngineConnection]) -> _Totals:
    engines = {}
    for connection in connections:
        if (heartbeat := connection.heartbeat) is not None:
            counters = heartbeat.counters
            engines[connection.pid] = _Engine(connection.heartbeat_at, counters.decode_tokens, counters.prefill_tokens)
    first = {
        f"{service.name} {number}": tuple(totals.first_token_seconds.counts)
        for service in services
        for number, totals in enumerate(service.metrics.totals)
    }
    gaps = {connection.pid: tuple(connection.gaps.seconds.counts) for connection in connections}
    return _Totals(now, engines, first, gaps)


def _rate(totals: _Totals, last: _Totals, name: str) -> float:
    """The growth per second of all engines that were there before, by their own heartbeats."""
    rate = 0.0
    for pid, engine in totals.engines.items():
        before = last.engines.get(pid)
        if before is not None and engine.reported_at > before.reported_at:
            rate += (getattr(engine, name) - getattr(before, name)) / (engine.reported_at - before.reported_at)
    return rate


def _grown(now: dict[Key, Counts], before: dict[Key, Counts], bounds: tuple[float, ...]) -> HistogramSample | None:
    """What was counted since ``before``; None where nothing was. A model that has come since counts from its start."""
    total = [0] * len(bounds)
    for key, counts in now.items():
        if counts != (known := before.get(key)):
            for index, count in enumerate(counts):
                total[index] += count - (known[index] if known is not None else 0)
    return HistogramSample(bounds, tuple(accumulate(total))) if any(total) else None


def _percentile(times: HistogramSample | None, part: float) -> float | None:
    found = None if times is None else times.percentile(part)
    return None if found is None else round(found, 5)
