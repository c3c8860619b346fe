"""The devices of this machine and of the workers, and the links to these, as ``/stats`` shows them. Pure.

What isn't known is left out of the JSON, or null, and never 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tailrace.diagnosis.sample import EngineInterval, Interval
from tailrace.protocol import LinkFigures, LinkTraffic, LinkUse, WorkerFigures
from tailrace.worker_protocol.device_reading import DeviceReading


class UseStats(msgspec.Struct, frozen=True, kw_only=True):
    """What went over a link for one use, since the engine's start. Bytes."""

    steps: int  #: 0 for uses that aren't steps
    sent: int  #: to the worker
    received: int
    sent_per_step: float | None  #: None without steps
    received_per_step: float | None


class LinkStats(msgspec.Struct, frozen=True, kw_only=True):
    """The connection of an engine to a worker. Rates are those of the interval; totals count from the engine's start.

    Keys of ``uses``: ``load``, ``prompt`` (steps with prompt tokens), ``decode`` (other steps), ``other``.
    """

    sent_rate: float  #: bytes per second to the worker
    received_rate: float
    sent: int  #: bytes of all uses
    received: int
    uses: dict[LinkUse, UseStats]
    round_trip: float  #: seconds, a running mean
    sending_seconds: float  #: in which bytes to the worker were on their way
    receiving_seconds: float | None  #: the same from the worker; None: it doesn't count
    retransmits: int  #: TCP segments that were sent again


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as one engine sees it."""

    worker: str  #: its address
    model: str | None = None  #: the engine's, where several are served
    replica: int  #: the engine's number
    devices: tuple[DeviceReading, ...]  #: as the worker has reported them last
    link: LinkStats | None  #: None where this system doesn't count


class HardwareStats(msgspec.Struct, frozen=True, kw_only=True):
    """All devices that have figures."""

    local: tuple[DeviceReading, ...] = ()  #: the CPU of this machine, then its GPUs
    workers: tuple[WorkerStats, ...] = ()


def hardware_stats(interval: Interval) -> HardwareStats:
    """What the later sample has, with rates since the earlier one."""
    workers = tuple(worker for engine in interval.engines for worker in _workers(engine))
    return HardwareStats(local=interval.after.server.hardware, workers=workers)


def _workers(engine: EngineInterval) -> Iterator[WorkerStats]:
    earlier = {each.worker: each for each in engine.before.workers}
    for after in engine.after.workers:
        before = earlier.get(after.worker)
        yield WorkerStats(
            worker=after.worker,
            model=engine.after.model or None,
            replica=engine.after.replica,
            devices=after.devices,
            link=None if after.link is None else _link(after, after.link, before, engine.seconds),
        )


def _link(after: WorkerFigures, link: LinkFigures, before: WorkerFigures | None, seconds: float) -> LinkStats:
    total = _total(link)
    sent_rate = received_rate = 0.0
    if seconds and before is not None and before.link is not None:
        earlier = _total(before.link)
        sent_rate = max(0, total.sent - earlier.sent) / seconds
        received_rate = max(0, total.received - earlier.received) / seconds
    return LinkStats(
        sent_rate=sent_rate,
        received_rate=received_rate,
        sent=total.sent,
        received=total.received,
        uses={use: _use(traffic) for use, traffic in link.traffic.items()},
        round_trip=link.round_trip,
        sending_seconds=link.sending_seconds,
        receiving_seconds=after.receiving_seconds,
        retransmits=link.retransmits,
    )


def _total(link: LinkFigures) -> LinkTraffic:
    uses = link.traffic.values()
    return LinkTraffic(sum(each.steps for each in uses), sum(each.sent for each in uses), sum(e.received for e in uses))


def _use(traffic: LinkTraffic) -> UseStats:
    steps = traffic.steps
    return UseStats(
        steps=steps,
        sent=traffic.sent,
        received=traffic.received,
        sent_per_step=traffic.sent / steps if steps else None,
        received_per_step=traffic.received / steps if steps else None,
    )
