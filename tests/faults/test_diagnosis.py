"""Each cause of a slow server, made on a real one: ``/stats`` names it, with the advice."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from background_load import streams
from control_group import control_group
from fault_figures import Record
from openai_wire import Connection
from servers import ServerProcess, fake, serving, wait_for
from stats_wire import read_stats, wait_for_finding
from tailrace.diagnosis.report import Stats

CPUS = sorted(os.sched_getaffinity(0))
#: The two CPUs of the servers here, so that a test is the same on a machine with 2 and with 64.
PAIR = ",".join(map(str, CPUS[:2]))
#: Findings about the machine, which other programs than these tests may cause.
OTHERS = {"foreign_process", "cpu_stolen", "memory_pressure", "clock_capped", "thermal_throttling"}

needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="two CPUs can't be shared on a machine with one")


@contextlib.contextmanager
def on_two_cpus(*arguments: str) -> Iterator[ServerProcess]:
    server = ServerProcess("--port", "0", *arguments, prefix=("taskset", "-c", PAIR))
    try:
        yield server.wait_ready()
    finally:
        server.close()


@contextlib.contextmanager
def hog(cpu: int) -> Iterator[int]:
    """A program that takes all of one CPU that it can get; its process id."""
    with subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def own_findings(stats: Stats) -> list[str]:
    """What a server is to be blamed for: nothing that other programs do."""
    return [each.code for each in stats.findings if each.severity != "info" and each.code not in OTHERS]


def speed(server: ServerProcess, seconds: float = 5.0) -> float:
    """Tokens per second over some samples."""
    read_stats(server)
    time.sleep(seconds)
    return read_stats(server).tokens.generated


@needs_two
def test_a_healthy_server_says_what_limits_it_and_alarms_nobody() -> None:
    with on_two_cpus() as server:
        for _ in range(3):
            idle = read_stats(server)
            assert own_findings(idle) == []
            time.sleep(1.0)
        assert idle.limit == "idle" or idle.findings[0].code in OTHERS
        with streams(server.port, 2):
            wait_for("the streams to run", lambda: read_stats(server).requests.running == 2)
            for _ in range(3):
                time.sleep(1.5)
                loaded = read_stats(server)
                assert own_findings(loaded) == []
                (limit,) = [each for each in loaded.findings if each.severity == "info"]
                assert limit.code in {"compute", "memory_bandwidth", "engine"}
                assert "tokens/s" in limit.sentence


@needs_two
def test_a_foreign_process_on_the_engines_core_is_named() -> None:
    with on_two_cpus() as server, streams(server.port, 2), hog(CPUS[0]) as pid:
        found, _ = wait_for_finding(server, "foreign_process", lambda finding: f"(pid {pid})" in finding.sentence)
        assert "Compute threads waited for a CPU" in found.sentence
        assert "taskset" in found.advice


@needs_two
def test_too_many_threads_are_the_founding_failure(record: Record) -> None:
    """What another server's HTTP process lost a fifth of its speed to: threads that fight for cores."""
    with on_two_cpus("--threads", "2") as server, streams(server.port, 2):
        wait_for("the streams to run", lambda: read_stats(server).requests.running == 2)
        planned = speed(server)
        assert "too_many_threads" not in own_findings(read_stats(server))
    with on_two_cpus("--threads", "8") as server:
        idle, _ = wait_for_finding(server, "too_many_threads")
        assert "8 threads compute on 2 CPUs" in idle.sentence, "the setting is wrong before the first request"
        with streams(server.port, 2):
            found, _ = wait_for_finding(server, "too_many_threads", lambda finding: "waited" in finding.sentence)
            assert "`--threads 2`" in found.advice
            crowded = speed(server)
    record("tokens/s with 8 threads ÷ with 2, on 2 cores", crowded / planned, 1.0, "x")


@needs_two
def test_the_http_process_on_the_engines_core_is_named() -> None:
    """Both on one CPU, with so many streams that the HTTP process is as busy as the engine."""
    one = str(CPUS[0])
    with fake("--cpus", one, "--http-cpus", one, "--parallel", "32", "--ctx", "100000") as server:
        prompt = "<say>" + "word " * 2000 + "</say>"
        with streams(server.port, 32, prompt=prompt, max_tokens=10_000):
            found, _ = wait_for_finding(server, "shared_cores")
        assert f"of the engine's CPUs {one}; compute threads waited for a CPU" in found.sentence


def test_a_slow_reader_is_named() -> None:
    with fake("--parallel", "4", "--ctx", "1000000", step=0.0002) as server:
        prompt = "<say>" + "word " * 100_000 + "</say>"
        connection = Connection(server.port, receive_buffer=4096)
        try:
            fields = {"prompt": prompt, "max_tokens": 500_000, "stream": True, "logprobs": 1}
            connection.request("POST", "/v1/completions", fields)
            found, stats = wait_for_finding(server, "slow_reader")
        finally:
            connection.close()
        assert "The client 127.0.0.1 is" in found.sentence
        assert stats.requests.running == 1


def test_a_stopped_engine_is_named_before_it_is_replaced() -> None:
    with serving() as server, streams(server.port, 1):
        engine = server.engine
        wait_for("the stream to run", lambda: read_stats(server).requests.running == 1)
        os.kill(engine, signal.SIGSTOP)
        found, _ = wait_for_finding(server, "engine_stopped", seconds=10.0)
        assert f"process {engine} of the engine is stopped" in found.sentence
        assert f"kill -CONT {engine}" in found.advice
        os.kill(engine, signal.SIGCONT)


def test_a_queue_says_how_long_requests_wait() -> None:
    with serving("--parallel", "2") as server, streams(server.port, 6, max_tokens=2000):
        found, stats = wait_for_finding(server, "queue")
        assert "4 requests waiting for one of 2 slots, the oldest for" in found.sentence
        assert own_findings(stats) == ["queue"]


def test_a_cpu_quota_is_named() -> None:
    with quota_group(0.5) as group, serving() as server:
        for pid in (server.pid, server.http, server.engine):
            (group / "cgroup.procs").write_text(str(pid))
        with streams(server.port, 2):
            found, _ = wait_for_finding(server, "cpu_quota")
        assert "CPU quota of 0.5 CPUs was used up in" in found.sentence
        assert "`--threads 1`" in found.advice


@contextlib.contextmanager
def quota_group(cpus: float) -> Iterator[Path]:
    """A control group with a CPU quota, version 1 or 2. Without the right to make one, the test is skipped: recorded
    files of both versions are in tests/unit/diagnosis.
    """
    quota = str(round(100_000 * cpus))
    with control_group("cpu", {"cpu.max": f"{quota} 100000", "cpu.cfs_quota_us": quota}) as group:
        yield group
