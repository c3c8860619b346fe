"""Samples are shared, names are hidden, and the bandwidth is measured once on an idle machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from diagnosed_server import changed
from tailrace.diagnosis.machine_sample import OtherProcess
from tailrace.diagnosis.measured_bandwidth import BandwidthStore, MeasuredBandwidth
from tailrace.diagnosis.report import Stats
from tailrace.diagnosis.sample import Sample
from tailrace.diagnosis.sampler import Sampler
from tailrace.diagnosis.server_sample import ServerFacts, ServerSample
from tailrace.machine import cpulist
from tailrace.machine.topology import read_topology
from tailrace.machine.tuning_record import machine_name
from tailrace.server import stats as module
from tailrace.server.bandwidth_measurement import BandwidthMeasurement
from tailrace.server.caller import Caller
from tailrace.server.loop_lag import LoopLag
from tailrace.server.open_streams import OpenStreams
from tailrace.server.stats import ServerStats


class ScriptedSampler(Sampler):
    """Returns the given samples one after the other, with the current time."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__(os.getppid(), os.getpid())
        self._scripted: Iterator[Sample] = iter(samples)
        self.taken = 0

    def take(self, server: ServerSample, facts: ServerFacts, now: float | None = None) -> Sample:
        self.taken += 1
        current = super().take(server, facts, now)
        return msgspec.structs.replace(next(self._scripted), time=current.time)

    def name_others(self, cpus: frozenset[int], now: float | None = None) -> tuple[OtherProcess, ...] | None:
        return (OtherProcess(4711, "pg_dump", 0.5),)


def measurement(tmp_path: Path, *, busy: bool = False) -> BandwidthMeasurement:
    return BandwidthMeasurement(BandwidthStore(tmp_path / "b.json"), read_topology().usable, lambda: busy)


def server(sampler: Sampler, tmp_path: Path) -> ServerStats:
    return ServerStats(sampler, ServerSample, ServerFacts, bandwidth=measurement(tmp_path))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MIN_SECONDS", 0.01)


def sentences(stats: Stats) -> str:
    return " ".join(each.sentence for each in stats.findings)


def test_all_that_ask_at_once_share_the_samples(tmp_path: Path) -> None:
    before, after = changed()
    sampler = ScriptedSampler([before, after])

    async def ask() -> list[Stats]:
        stats = server(sampler, tmp_path)
        return await asyncio.gather(*(stats.stats(reveal=lambda name: True) for _ in range(50)))

    answers = asyncio.run(ask())
    assert sampler.taken == 2
    assert all(answer == answers[0] for answer in answers)


def test_an_old_sample_is_not_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARED_SECONDS", 0.0)
    monkeypatch.setattr(module, "_MAX_SECONDS", 0.05)
    sampler = ScriptedSampler([*changed(), *changed()])

    async def ask() -> None:
        stats = server(sampler, tmp_path)
        await stats.stats(reveal=lambda name: True)
        await asyncio.sleep(0.1)
        await stats.stats(reveal=lambda name: True)

    asyncio.run(ask())
    assert sampler.taken == 4


def test_names_are_shown_to_those_who_may_see_them(tmp_path: Path) -> None:
    harm: dict[str, Any] = {"behind": (100_000, 200_000), "foreign": 0.5, "wait": 0.2}

    def answer(*known: str) -> str:
        sampler = ScriptedSampler([*changed(**harm)])
        stats = server(sampler, tmp_path)
        return sentences(asyncio.run(stats.stats(reveal=lambda name: name in known)))

    shown = answer("", "192.0.2.7")
    assert "192.0.2.7 is 200 kB behind" in shown
    assert "pg_dump (pid 4711) 50 %" in shown
    hidden = answer()
    assert "of another user is 200 kB behind" in hidden
    assert "another program" in hidden
    assert "192.0.2.7" not in hidden
    assert "pg_dump" not in hidden
    assert "4711" not in hidden
    own = answer("192.0.2.7")
    assert "192.0.2.7 is" in own
    assert "pg_dump" not in own


def test_a_measured_bandwidth_is_remembered(tmp_path: Path) -> None:
    topology = read_topology()
    store = BandwidthStore(tmp_path / "state" / "b.json")
    assert store.find(topology) is None
    record = MeasuredBandwidth(machine="x", usable="0", measured_at=1000.0, rates={0: 10e9, 1: 12e9})
    store.save(record)
    assert store.find(topology, 1000.0) is None, "another machine's"
    usable = cpulist.format_cpus(topology.usable)
    own = msgspec.structs.replace(record, machine=machine_name(topology), usable=usable)
    store.save(own)
    assert store.find(topology, 2000.0) == own
    assert store.find(topology, 1000.0 + 40 * 86_400) is None, "too old"
    store.path.write_text("{")
    assert store.find(topology) is None
    assert (own.of(1), own.of(None)) == (12e9, 22e9)


@pytest.mark.parametrize(
    ("load", "starts"),
    [
        ({"busy": 0.0, "steps": 0, "run": 0.0}, True),
        ({"busy": 0.0, "steps": 0, "run": 0.0, "foreign": 0.5}, False),
        ({}, False),
        ({"busy": 0.0, "steps": 0, "run": 0.0, "pass_bytes": 0}, False),
    ],
)
def test_the_bandwidth_is_measured_where_nothing_else_runs(
    load: dict[str, Any], starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    async def begin(*arguments: object, **options: object) -> None:
        begun.append(arguments)
        raise OSError("no process in this test")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", begin)

    async def consider() -> None:
        measuring = measurement(tmp_path)
        for _ in range(10):
            measuring.consider(*changed(**load))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(consider())
    assert len(begun) == (3 if starts else 0), "a measurement that fails isn't tried for ever"


class Body:
    waiting_bytes = 70_000
    written_bytes = 100_000


def test_streams_that_are_behind_are_listed_while_they_are_sent() -> None:
    streams = OpenStreams()
    idle = Body()
    idle.waiting_bytes = 0
    with streams.including(Body(), Caller("192.0.2.7", "alice")), streams.including(idle, Caller("")):
        (slow,) = streams.behind()
        assert (slow.client, slow.behind, slow.moved) == ("192.0.2.7 with the key 'alice'", 70_000, 30_000)
    assert streams.behind() == ()


def test_the_lag_is_the_worst_of_the_last_seconds() -> None:
    lag = LoopLag()
    lag.add(0.2, 100.0)
    lag.add(0.1, 100.5)
    assert lag.worst(101.0) == 0.2
    assert lag.worst(103.0) == 0.2
    assert lag.worst(105.0) == 0.0
    lag.add(0.3, 200.0)
    assert lag.worst(200.1) == 0.3
    assert lag.worst(300.0) == 0.0
