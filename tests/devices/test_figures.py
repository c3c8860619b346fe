"""What a user sees of a real worker under a real server: in ``/stats``, in ``/metrics``, and in ``tailrace top``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from openai_wire import ask
from servers import PATIENCE, ServerProcess, serving, wait_for
from worker_process import WorkerProcess

#: Tokens of the reply; the first one is of the prompt's step.
TOKENS = 24


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    found = WorkerProcess()
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(worker: WorkerProcess) -> Iterator[ServerProcess]:
    """A server whose last layers are on the worker. It has made one reply."""
    with serving("--ctx", "2048", "--gpu-layers", "10", "--devices", f"local,{worker.endpoint}") as found:
        body = {
            "messages": [{"role": "user", "content": "Count."}],
            "max_tokens": TOKENS,
            "logit_bias": {"2": -100},
        }
        assert ask(found.port, "POST", "/v1/chat/completions", body).status == 200
        wait_for("the engine's figures", lambda: link_steps(found, "prompt") == 1)
        yield found


def hardware(server: ServerProcess) -> Any:
    return ask(server.port, "GET", "/stats").json()["hardware"]


def link_steps(server: ServerProcess, use: str) -> int:
    (worker,) = hardware(server)["workers"]
    return int(worker["link"]["uses"].get(use, {"steps": 0})["steps"])


def metrics(server: ServerProcess, prefix: str) -> dict[tuple[str, ...], float]:
    text = ask(server.port, "GET", "/metrics").body.decode()
    return {
        (sample.name.removeprefix(prefix), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def test_stats_has_both_machines_and_the_link(server: ServerProcess, worker: WorkerProcess) -> None:
    found = hardware(server)
    (remote,) = found["workers"]
    assert remote["worker"] == worker.endpoint
    for devices in (found["local"], remote["devices"]):
        cpu = devices[0]
        assert cpu["device"] == "cpu"
        assert 0 < cpu["free"] < cpu["memory"]
    uses = remote["link"]["uses"]
    stats = ask(server.port, "GET", "/stats").json()
    assert all(0 < each["free_bytes"] < each["total_bytes"] for each in stats["devices"])
    (share,) = [each for each in stats["devices"] if each["name"] == worker.endpoint]
    assert uses["load"]["sent"] > share["weights_bytes"]
    assert 0 < uses["decode"]["steps"] < TOKENS
    assert uses["decode"]["sent_per_step"] == uses["decode"]["sent"] / uses["decode"]["steps"]
    assert remote["link"]["sent"] == sum(use["sent"] for use in uses.values())
    assert remote["link"]["round_trip"] > 0


def test_metrics_have_the_same(server: ServerProcess, worker: WorkerProcess) -> None:
    link = hardware(server)["workers"][0]["link"]
    samples = metrics(server, "tailrace:link_")
    for use, traffic in link["uses"].items():
        found = {key[-2]: value for key, value in samples.items() if key[0] == "bytes_total" and key[-1] == use}
        assert found == {"to_worker": traffic["sent"], "from_worker": traffic["received"]}
    devices = metrics(server, "tailrace:device_")
    for machine in ("local", worker.endpoint):
        assert 0 < devices["memory_free_bytes", machine, "cpu"] < devices["memory_bytes", machine, "cpu"]
    speeds = metrics(server, "tailrace:placement_")
    assert {key[-2:] for key in speeds} >= {("decode", "predicted"), ("prompt", "predicted")}


def test_top_shows_the_worker(server: ServerProcess, worker: WorkerProcess) -> None:
    top = [str(Path(sys.executable).with_name("tailrace")), "top", "--once", "--url", f"http://127.0.0.1:{server.port}"]
    done = subprocess.run(top, capture_output=True, text=True, check=True, timeout=PATIENCE)
    rows = [line.split() for line in done.stdout.splitlines()]
    for machine in ("local", worker.endpoint):
        assert next(row[1] for row in rows if row[:1] == [machine]) == "cpu"
    (layers,) = [" ".join(row) for row in rows if row[:1] == ["layers"]]
    assert layers.endswith(f"on {worker.endpoint}")
