"""The devices of this machine and of workers in ``/stats``, and the rates of links between two samples."""

from __future__ import annotations

import msgspec

from diagnosed_server import changed
from tailrace.diagnosis.report import Stats, make_stats
from tailrace.diagnosis.sample import Sample
from tailrace.protocol import LinkFigures, LinkTraffic, LinkUse, WorkerFigures
from tailrace.worker_protocol.device_reading import DeviceReading

GPU = DeviceReading(device="gpu0", memory=80, free=20, temperature=61.0)


def worker(traffic: dict[LinkUse, LinkTraffic], receiving_seconds: float | None = 0.5) -> WorkerFigures:
    link = LinkFigures(traffic=traffic, sending_seconds=0.25, retransmits=3, round_trip=0.002)
    return WorkerFigures(worker="b:50052", devices=(GPU,), link=link, receiving_seconds=receiving_seconds)


def with_worker(sample: Sample, *workers: WorkerFigures) -> Sample:
    (engine,) = sample.server.engines
    engines = (msgspec.structs.replace(engine, workers=workers),)
    server = msgspec.structs.replace(sample.server, engines=engines, hardware=(DeviceReading(device="cpu", use=0.5),))
    return msgspec.structs.replace(sample, server=server)


def report(before: Sample, after: Sample) -> Stats:
    """The statistics, as a client reads them."""
    return msgspec.json.decode(msgspec.json.encode(make_stats(before, after)), type=Stats)


def test_rates_are_those_of_the_interval_and_totals_since_the_engine_s_start() -> None:
    before, after = changed()
    loaded = LinkTraffic(0, 1000, 10)
    before = with_worker(before, worker({"load": loaded, "decode": LinkTraffic(10, 100, 200)}))
    after = with_worker(after, worker({"load": loaded, "decode": LinkTraffic(30, 300, 600)}))
    hardware = report(before, after).hardware
    assert [each.device for each in hardware.local] == ["cpu"]
    (found,) = hardware.workers
    assert (found.worker, found.replica, found.devices) == ("b:50052", 0, (GPU,))
    assert found.link is not None
    seconds = after.server.engines[0].reported_at - before.server.engines[0].reported_at
    assert found.link.sent_rate == 200 / seconds
    assert found.link.received_rate == 400 / seconds
    assert (found.link.sent, found.link.received) == (1300, 610)
    assert (found.link.uses["decode"].sent_per_step, found.link.uses["decode"].received_per_step) == (10, 20)
    assert found.link.uses["load"].sent_per_step is None
    assert (found.link.round_trip, found.link.sending_seconds, found.link.retransmits) == (0.002, 0.25, 3)
    assert found.link.receiving_seconds == 0.5


def test_a_worker_that_is_new_has_no_rate_yet() -> None:
    before, after = changed()
    found = report(with_worker(before), with_worker(after, worker({"load": LinkTraffic(0, 1000, 10)})))
    (link,) = [each.link for each in found.hardware.workers]
    assert link is not None
    assert (link.sent_rate, link.received_rate, link.sent) == (0.0, 0.0, 1000)


def test_figures_that_are_not_known_are_left_out() -> None:
    before, after = changed()
    unknown = WorkerFigures(worker="b:50052", devices=(), link=None, receiving_seconds=None)
    stats = make_stats(with_worker(before, unknown), with_worker(after, unknown))
    found = msgspec.json.decode(msgspec.json.encode(stats))
    assert found["hardware"] == {
        "local": [{"device": "cpu", "use": 0.5}],
        "workers": [{"worker": "b:50052", "model": None, "replica": 0, "devices": [], "link": None}],
    }
