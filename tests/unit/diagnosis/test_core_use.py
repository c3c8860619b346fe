"""Which process's time counts for which CPU."""

from __future__ import annotations

import pytest

from tailrace.diagnosis.core_use import CpuPlace, core_use
from tailrace.diagnosis.machine_sample import CpuTime, MachineSample
from tailrace.diagnosis.process_sample import ProcessSample, ThreadSample
from tailrace.diagnosis.sample import Interval, Sample
from tailrace.diagnosis.server_sample import ServerFacts, ServerSample

_ALL = frozenset({0, 1, 2, 3})
_PLACES = [CpuPlace(0, 0, 0, True), CpuPlace(1, 1, 0, True), CpuPlace(2, 0, 1, True), CpuPlace(3, 1, 1, False)]


def _thread(name: str, run: float, cpu: int, wait: float = 0.0) -> ThreadSample:
    return ThreadSample(name=name, run=run, wait=wait, involuntary=0, allowed=_ALL, cpu=cpu)


def _process(pid: int, role: str, threads: dict[int, ThreadSample]) -> ProcessSample:
    return ProcessSample(pid=pid, role=role, state="R", cpu=0.0, memory=1, swapped=0, major_faults=0, threads=threads)


def _sample(time: float, busy: list[float], *processes: ProcessSample, stolen: float = 0.0) -> Sample:
    cpus = {number: CpuTime(seconds, stolen if number == 3 else 0.0) for number, seconds in enumerate(busy)}
    by_pid = {process.pid: process for process in processes}
    machine = MachineSample(cpus=cpus)
    return Sample(time=time, server=ServerSample(), facts=ServerFacts(), machine=machine, processes=by_pid)


def test_time_counts_for_the_cpu_on_which_a_thread_ran_last() -> None:
    def engine(*run: float) -> ProcessSample:
        names = ("tailrace-engine", "tailrace-engine", "grammar")
        cpus = (0, 1, 1)
        return _process(10, "engine", {10 + n: _thread(names[n], run[n], cpus[n], wait=run[n] / 2) for n in range(3)})

    def http(run: float) -> ProcessSample:
        return _process(20, "http", {20: _thread("tailrace-http", run, 2)})

    before = _sample(100.0, [10.0, 10.0, 10.0, 10.0], engine(1.0, 1.0, 1.0), http(1.0))
    after = _sample(102.0, [12.0, 11.6, 11.0, 10.0], engine(3.0, 2.0, 1.2), http(1.4), stolen=0.5)
    found = core_use(Interval(before, after), _PLACES)
    assert [core.use for core in found] == [
        {"compute": 1.0},
        {"compute": 0.5, "engine": 0.1, "other": 0.2},
        {"http": 0.2, "other": 0.3},
        {"stolen": 0.25},
    ]
    assert [(core.cpu, core.core, core.node, core.usable) for core in found][2:] == [(2, 0, 1, True), (3, 1, 1, False)]
    busiest = found[1].threads[0]
    assert (busiest.process, busiest.name, busiest.user, busiest.cpu, busiest.wait) == (
        "engine",
        "tailrace-engine",
        "compute",
        0.5,
        0.25,
    )
    assert found[3].threads == []


def test_no_cpu_has_more_than_its_own_time() -> None:
    def engine(run: float) -> ProcessSample:
        return _process(10, "engine", {10: _thread("a", run, 0), 11: _thread("a", run, 0), 12: _thread("b", run, 0)})

    interval = Interval(_sample(1.0, [0.0], engine(0.0)), _sample(2.0, [0.9], engine(0.6)))
    (core,) = core_use(interval, _PLACES[:1])
    assert core.use == pytest.approx({"compute": 0.6, "engine": 0.3}, abs=0.001)


def test_without_figures_of_the_cpus_there_are_those_of_threads() -> None:
    def http(run: float) -> ProcessSample:
        return _process(20, "http", {20: _thread("tailrace-http", run, 0)})

    interval = Interval(_sample(1.0, [], http(0.0)), _sample(2.0, [], http(0.5)))
    assert [core.use for core in core_use(interval, _PLACES[:2])] == [{"http": 0.5}, {}]
