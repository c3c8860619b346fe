"""``/stats`` on the wire: its form, its key, and what it says of an idle and of a loaded server."""

from __future__ import annotations

import os
import signal

import httpx

from servers import ServerProcess, fake
from stats_wire import read_stats, wait_for_finding
from tailrace.diagnosis.catalogue import CATALOGUE


def test_an_idle_server_says_so(scripted: ServerProcess) -> None:
    found = read_stats(scripted)
    assert found.interval >= 1.0
    assert found.limit == found.findings[0].code
    assert {each.code for each in found.findings} <= set(CATALOGUE)
    assert not [each for each in found.findings if each.severity == "critical"]
    assert {process.role for process in found.processes} >= {"http", "supervisor", "engine"}
    (engine,) = found.engines
    assert engine.pid == scripted.engine
    assert 0 <= engine.kv_used <= engine.kv_cells


def test_stats_and_metrics_have_this_machine_s_devices(scripted: ServerProcess) -> None:
    cpu = read_stats(scripted).hardware.local[0]
    assert cpu.device == "cpu"
    assert cpu.memory is not None
    assert cpu.free is not None
    assert 0 < cpu.free < cpu.memory
    text = httpx.get(f"http://127.0.0.1:{scripted.port}/metrics").text
    assert f'tailrace:device_memory_bytes{{worker="local",device="cpu"}} {cpu.memory}\n' in text
    assert "tailrace:link_bytes_total{" not in text, "its model is on no worker"


def test_it_needs_the_servers_key(keyed: ServerProcess) -> None:
    url = f"http://127.0.0.1:{keyed.port}"
    assert httpx.get(f"{url}/stats").status_code == 401
    assert httpx.get(f"{url}/v1/stats", headers={"x-api-key": "s3cret"}, timeout=60.0).status_code == 200


def test_requests_that_wait_for_a_slot_are_a_queue() -> None:
    with fake("--parallel", "1", step=0.02) as server:
        body = {"model": "fake", "prompt": "<say>" + "x" * 2000 + "</say>", "stream": True, "max_tokens": 2000}
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        client = httpx.Client(timeout=60.0)
        streams = [client.stream("POST", url, json=body) for _ in range(4)]
        for stream in streams:
            stream.__enter__()
        try:
            read_stats(server)
            found = read_stats(server)
            queue = next(each for each in found.findings if each.code == "queue")
            assert "3 requests waiting for one of 1 slot, the oldest for" in queue.sentence
            assert (found.requests.running, found.requests.waiting, found.requests.slots) == (1, 3, 1)
            assert found.requests.oldest_wait > 0
            assert found.tokens.generated > 0
            parts = found.engines[0].parts
            assert parts.decode > max(parts.schedule, parts.sample, parts.publish)
        finally:
            for stream in streams:
                stream.__exit__(None, None, None)
            client.close()


def test_a_stopped_engine_is_named() -> None:
    with fake() as server:
        engine = server.engine
        os.kill(engine, signal.SIGSTOP)
        try:
            found, _ = wait_for_finding(server, "engine_stopped")
        finally:
            os.kill(engine, signal.SIGCONT)
        assert (found.severity, f"kill -CONT {engine}" in found.advice) == ("critical", True)
