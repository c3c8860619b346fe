"""Each finding: a sample that triggers it, one just below, and no finding of a healthy server's."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diagnosed_server import changed
from tailrace.diagnosis.catalogue import CATALOGUE
from tailrace.diagnosis.diagnose import diagnose
from tailrace.diagnosis.machine_sample import OtherProcess
from tailrace.diagnosis.process_sample import LOADING

IDLE = {"busy": 0.0, "steps": 0, "running": 0, "run": 0.001}
DUMP = OtherProcess(4711, "pg_dump", 0.48)

#: Code; what triggers it; the same just below; what the sentence has to say.
CASES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "engine_stopped",
        {"state": "T", "silent": 3.0},
        {"state": "S", "silent": 3.0},
        "process 20 of the engine is stopped",
    ),
    ("engine_stalled", {"stalled": True, "silent": 12.0, "state": "D"}, {"silent": 9.0}, "for 12 s, with 4 requests"),
    ("loading", {"connected": 0}, {}, "No engine is connected"),
    ("replica_missing", {"engines": 2, "connected": 1}, {"engines": 2, "connected": 2}, "1 of 2 engines"),
    ("engine_replaced", {"restarts": 1}, {}, "1 engine started again"),
    (
        "too_many_threads",
        {"threads": 8, "run": 0.24, "wait": 0.7},
        {"threads": 2, "wait": 0.01},
        "8 threads compute on 2 CPUs: they waited for a CPU in 74 % of their time",
    ),
    ("too_many_threads", {"threads": 2, "quota": 1.5}, {"threads": 1, "quota": 1.5}, "a quota of 1.5 CPUs"),
    (
        "shared_cores",
        {"http_cpu": 0.4, "wait": 0.2},
        {"http_cpu": 0.19, "wait": 0.2},
        "The HTTP process had 40 % of a core of the engine's CPUs 1",
    ),
    ("shared_cores", {"http_cpu": 0.4, "wait": 0.2}, {"http_cpu": 0.4, "wait": 0.04}, "18 % of their time"),
    ("shared_cores", {"http_cpu": 0.4, "wait": 0.2}, {"http_cpu": 0.4, "wait": 0.2, "http_cpus": (5,)}, "HTTP"),
    (
        "foreign_process",
        {"foreign": 0.5, "wait": 0.2, "others": (DUMP,)},
        {"foreign": 0.09, "wait": 0.2, "others": (DUMP,)},
        "pg_dump (pid 4711) 48 % of a core",
    ),
    ("foreign_process", {"foreign": 0.5, "wait": 0.2}, {"foreign": 0.5, "wait": 0.04}, "no process that is visible"),
    ("cpu_quota", {"throttled": 0.3}, {"throttled": 0.01}, "quota of 1.5 CPUs was used up in 9 of 10 periods"),
    ("cpu_stolen", {"stolen": 0.06}, {"stolen": 0.04}, "6 % of the time of CPUs 0-1"),
    ("thermal_throttling", {"heat": 1}, {"heat": 0}, "slowed down 2 times"),
    ("clock_capped", {"cap": 0.5}, {"cap": 0.95}, "at most 50 % of their clock"),
    ("weights_evicted", {"faults": 30}, {"faults": 19}, "read 30 pages a second"),
    ("swapping", {"swapped": 64 << 20, "swapped_in": 100}, {"swapped": 64 << 20, "swapped_in": 5}, "67.1 MB"),
    ("swapping", {"swapped": 64 << 20, "swapped_in": 100}, {"swapped": 1 << 20, "swapped_in": 100}, "in swap"),
    ("memory_pressure", {"stall": 0.1}, {"stall": 0.04}, "waited for memory in 10 % of the time"),
    (
        "far_memory",
        {"node_of": {0: 0, 1: 0}, "nodes": {0: 80, 1: 20}},
        {"node_of": {0: 0, 1: 0}, "nodes": {0: 95, 1: 5}},
        "20 % of the engine process's memory",
    ),
    (
        "far_memory",
        {"node_of": {0: 0, 1: 0}, "nodes": {0: 50, 1: 50}},
        {"node_of": {0: 0, 1: 0}, "nodes": {0: 50, 1: 50}, "interleaved": True},
        "other NUMA nodes",
    ),
    ("slow_kernels", {"kernels": ""}, {"kernels": "amx", "fastest": "amx"}, "llama.cpp's own kernels"),
    ("slow_kernels", {"fastest": "amx"}, {"kernels": "", "fastest": ""}, "this CPU has amx"),
    (
        "grammar_masks",
        {"parts": {"mask_wait_seconds": 0.3}},
        {"parts": {"mask_wait_seconds": 0.1}},
        "masks in 32 % of their time",
    ),
    (
        "step_overhead",
        {"parts": {"sample_seconds": 0.4, "publish_seconds": 0.1}},
        {"parts": {"sample_seconds": 0.2, "publish_seconds": 0.1}},
        "choosing tokens takes 42 %",
    ),
    ("http_process", {"http_cpu": 0.97, "http_cpus": (5,)}, {"http_cpu": 0.8, "http_cpus": (5,)}, "97 % of the one"),
    ("http_process", {"lag": 0.4}, {"lag": 0.4, "http_wait": 0.2}, "a request held it up"),
    ("grammar_masks", {"late_masks": 1}, {"late_masks": 0}, "1.0 times a second a reply sits out"),
    ("http_process", {"lag": 0.4}, {"lag": 0.2}, "event loop was up to 400 ms late"),
    ("slow_reader", {"behind": (100_000, 200_000)}, {"behind": (0, 200_000)}, "192.0.2.7 is 200 kB behind"),
    ("slow_reader", {"behind": (100_000, 200_000)}, {"behind": (100_000, 60_000)}, "it reads 500 B/s"),
    ("file_descriptors", {"files": 900}, {"files": 849}, "900 of at most 1000"),
    ("kv_full", {"preemptions": 2, "kv_used": 9900}, {"preemptions": 0, "kv_used": 9900}, "2 sequences paused"),
    ("kv_full", {"preemptions": 2, "kv_used": 9900}, {"preemptions": 2, "kv_used": 8000}, "9900 of 10000 tokens"),
    (
        "queue_full",
        {"refused": 5, "running": 8, "waiting": (9, 9)},
        {},
        "5 requests refused in 1.0 s, while 8 ran",
    ),
    (
        "disk_tier",
        {**IDLE, "disk_tier": True, "waiting": (2, 2), "oldest_wait": 0.9},
        {**IDLE, "disk_tier": True, "waiting": (2, 2), "oldest_wait": 0.4},
        "2 requests waiting for prefix states",
    ),
    (
        "intake",
        {"waiting": (3, 3), "unaccepted": (3, 3), "oldest_wait": 2.0, "grammar_seconds": 0.8},
        {"waiting": (3, 3), "unaccepted": (3, 3), "oldest_wait": 0.9},
        "grammars compile in 80 % of the time",
    ),
    (
        "queue",
        {"running": 8, "waiting": (3, 5), "oldest_wait": 4.0},
        {"running": 8, "waiting": (0, 5), "oldest_wait": 4.0},
        "5 requests waiting for one of 8 slots, the oldest for 4.0 s",
    ),
    ("memory_bandwidth", {"steps": 150}, {"steps": 100}, "79 % of the 20.0 GB/s"),
    ("compute", {"steps": 50}, {"steps": 150}, "arithmetic limits them more than memory"),
    ("engine", {"bandwidth": None}, {}, "isn't measured yet"),
    ("spare", {"busy": 0.4}, {"busy": 0.85}, "computes in 40 % of the time"),
    ("idle", IDLE, {}, "the server is idle"),
]


def codes(**changes: Any) -> list[str]:
    return [each.code for each in diagnose(*changed(**changes))]


@pytest.mark.parametrize(("code", "trigger", "below", "says"), CASES)
def test_each_finding_has_a_threshold(code: str, trigger: dict[str, Any], below: dict[str, Any], says: str) -> None:
    found = {each.code: each for each in diagnose(*changed(**trigger))}
    assert code in found, found
    assert says in found[code].sentence
    assert found[code].severity == CATALOGUE[code].severity
    assert found[code].advice or not CATALOGUE[code].advice
    assert code not in codes(**below)


def test_every_finding_has_a_case() -> None:
    assert {code for code, *_ in CASES} == set(CATALOGUE)


@pytest.mark.parametrize(
    ("load", "limit"),
    [
        ({}, "compute"),
        ({"steps": 180}, "memory_bandwidth"),
        ({"busy": 0.3, "steps": 15, "run": 0.28}, "spare"),
        (IDLE, "idle"),
        # A thread that wakes up rarely may wait for a CPU without harm.
        ({**IDLE, "wait": 0.01, "foreign": 0.9}, "idle"),
        # The machine is busy elsewhere, and no compute thread waits.
        ({"cpus": 8, "cores": 8, "foreign": 3.0, "http_cpus": (7,)}, "compute"),
    ],
)
def test_a_healthy_server_has_one_finding_that_alarms_nobody(load: dict[str, Any], limit: str) -> None:
    (only,) = diagnose(*changed(**load))
    assert (only.code, only.severity) == (limit, "info")


def test_what_is_worse_comes_first() -> None:
    found = codes(state="T", threads=8, run=0.2, wait=0.7, running=8, waiting=(5, 5), oldest_wait=9.0)
    assert found == ["engine_stopped", "too_many_threads", "queue"]


def test_a_step_that_lasts_longer_than_the_interval_is_no_idleness() -> None:
    (only,) = diagnose(*changed(reports=False, silent=4.0))
    assert (only.code, only.sentence) == ("engine", "A step of the engine has lasted 4.0 s and goes on.")


def test_an_engine_that_loads_is_shown_with_its_process() -> None:
    before, after = changed(connected=0)
    process = msgspec.structs.replace(changed()[1].processes[20], role=LOADING, cpu=1.5)
    earlier = msgspec.structs.replace(process, cpu=1.0)
    samples = [
        msgspec.structs.replace(each, processes={**each.processes, 20: found})
        for each, found in ((before, earlier), (after, process))
    ]
    (only,) = diagnose(*samples)
    assert "process 20 loads, with 50 % of a core and 500 MB of memory" in only.sentence
    samples[1].processes[20] = msgspec.structs.replace(process, state="T")
    assert [each.code for each in diagnose(*samples)] == ["engine_stopped", "loading"]


def test_embeddings_are_named() -> None:
    (only,) = diagnose(*changed(embeddings=0.05))
    assert "embeddings in 5 % of the time" in only.sentence


def test_rates_say_nothing_about_the_hardware_while_threads_have_no_cpu() -> None:
    assert codes(wait=0.3) == ["engine"]
    assert codes(wait=0.1) == ["compute"]


def test_threads_that_outnumber_the_cpus_are_not_blamed_on_another_process() -> None:
    assert codes(threads=8, run=0.24, wait=0.7, foreign=0.2) == ["too_many_threads", "engine"]
    assert codes(threads=8, run=0.18, wait=0.7, foreign=0.5) == ["too_many_threads", "foreign_process", "engine"]


def test_the_advice_against_too_many_threads_is_the_planned_number() -> None:
    (first, *_) = diagnose(*changed(threads=8, cores=2, run=0.24, wait=0.7))
    assert "`--threads 2`" in first.advice


def test_an_engine_that_has_just_started_has_no_figures_yet() -> None:
    before, after = changed(connected=0)[0], changed()[1]
    assert [each.code for each in diagnose(before, after)] == ["engine"]


def test_without_proc_the_requests_are_diagnosed() -> None:
    before, after = changed(steps=150)
    bare = [type(each)(time=each.time, server=each.server, facts=each.facts) for each in (before, after)]
    assert [each.code for each in diagnose(*bare)] == ["memory_bandwidth"]


def test_engines_of_several_models_have_their_models_names() -> None:
    before, after = changed(engines=2, connected=2, models=("chat", "coder"), silent=60.0, stalled=True, state="S")
    sentences = " ".join(each.sentence for each in diagnose(before, after))
    assert "The engine chat has sent nothing for" in sentences
    assert "The engine coder has sent nothing for" in sentences


def test_a_server_without_a_loaded_model_is_idle_where_none_is_wanted() -> None:
    before, after = changed(**IDLE, engines=0, connected=0)
    assert [each.code for each in diagnose(before, after)] == ["idle"]
    missing = changed(**IDLE, engines=1, connected=0)
    assert "loading" in [each.code for each in diagnose(*missing)], "one starts"
