"""Each fault of a cluster, on one cluster of a head and three nodes: what clients see, and within which time.

Two replicas have two slots each. Before a fault four replies run, two at each replica, and two requests wait.
"""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Iterator

import pytest

from client_streams import ClientStream, SteadyLoad, wait_ended
from fault_figures import Record
from ray_cluster import RayCluster, actors_named, parent_of, ray_cluster
from servers import alive, wait_for
from tailrace.cluster.directory_book import ReplicaRecord

_SLOTS = 2
#: A reply of 180 steps of 50 ms: it still runs when the fault comes.
_LONG = "x" * 180
_STEP_SECONDS = "0.05"
#: Seconds within which a running stream ends with an error event.
_ERROR_SECONDS = 2.0
_ANSWERED = re.compile(r"^vllm:request_success_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """Two replicas, and a CPU for another one."""
    os.environ["TAILRACE_FAKE_STEP_SECONDS"] = _STEP_SECONDS
    try:
        with ray_cluster(1, 1, 1) as started:
            started.deploy({"m": {"path": "x", "replicas": 2, "cores": 1, "parallel": _SLOTS}})
            yield started
    finally:
        del os.environ["TAILRACE_FAKE_STEP_SECONDS"]


class _Load:
    """Four running replies and two that wait."""

    def __init__(self, cluster: RayCluster) -> None:
        wait_for("two replicas", lambda: len(cluster.ready("m")) == 2)
        wait_for("an idle cluster", lambda: _running(cluster) == (0, 0))
        self.running = _begun(cluster)
        self.waiting = [ClientStream(cluster.port, "m", f"{index}, short") for index in range(2)]
        wait_for("requests that wait", lambda: _running(cluster) == (2 * _SLOTS, 2))

    def check(self, at: float, lost: int, record: Record) -> None:
        """``lost`` of the running replies have ended with an error since ``at``; everything else was answered."""
        wait_ended(self.running + self.waiting)
        failed = [stream.seen for stream in self.running if stream.seen.error]
        assert len(failed) == lost, [stream.seen for stream in self.running]
        for seen in failed:
            assert seen.ended_at is not None
            record("running stream: error event after the fault", seen.ended_at - at, _ERROR_SECONDS, "s")
            assert seen.starts == 1, "a reply that had begun was asked for again"
        for stream in [each for each in self.running if not each.seen.error] + self.waiting:
            assert stream.seen.finish == "stop", stream.seen
            assert stream.seen.starts == 1, stream.seen


def _begun(cluster: RayCluster) -> list[ClientStream]:
    """Replies that fill all slots, one after the other, so that the ingress knows of each before the next."""
    streams = []
    for index in range(2 * _SLOTS):
        stream = ClientStream(cluster.port, "m", f"{index}{_LONG}")
        wait_for("a running reply", lambda stream=stream: stream.has_begun)  # type: ignore[misc]
        streams.append(stream)
    return streams


def _running(cluster: RayCluster) -> tuple[int, int]:
    loads = [each.load for each in cluster.ready("m") if each.load is not None]
    return sum(load.running for load in loads), sum(load.waiting for load in loads)


def _answered(replica: ReplicaRecord) -> int:
    """How many requests this replica has answered to their end."""
    with urllib.request.urlopen(f"http://{replica.host}:{replica.port}/metrics", timeout=10) as response:
        return sum(map(int, map(float, _ANSWERED.findall(response.read().decode()))))


@pytest.mark.parametrize("victim", ["server", "actor"])
def test_killed_replica(cluster: RayCluster, record: Record, victim: str) -> None:
    cluster.wait_running()
    wait_for("two replicas", lambda: len(cluster.ready("m")) == 2)
    killed, other = cluster.ready("m")
    before = _answered(other)
    load = _Load(cluster)

    at = time.monotonic()
    os.kill(killed.pid if victim == "server" else parent_of(killed.pid), signal.SIGKILL)

    load.check(at, _SLOTS, record)
    assert _answered(other) - before == _SLOTS + 2, "its own replies, and those that waited anywhere"
    wait_for("the server's end", lambda: not alive(killed.pid))
    wait_for("another replica", lambda: len(cluster.ready("m")) == 2)
    record("another replica is ready", time.monotonic() - at, 60, "s")
    assert killed.id not in {each.id for each in cluster.ready("m")}


def test_killed_directory_loses_nothing(cluster: RayCluster, record: Record) -> None:
    cluster.wait_running()
    before = {each.id for each in cluster.ready("m")}
    (directory,) = actors_named("Directory")

    at = time.monotonic()
    os.kill(directory, signal.SIGKILL)

    stream = ClientStream(cluster.port, "m", "answered")
    wait_ended([stream])
    assert stream.seen.text == "answered"
    wait_for("another directory", lambda: actors_named("Directory") not in ([], [directory]))
    wait_for("all replicas in it", lambda: {each.id for each in cluster.ready("m")} == before)
    record("another directory knows all replicas", time.monotonic() - at, 30, "s")


def test_killed_serve_controller(cluster: RayCluster, record: Record) -> None:
    cluster.wait_running()
    load = _Load(cluster)
    (controller,) = actors_named("ServeController")

    at = time.monotonic()
    os.kill(controller, signal.SIGKILL)

    load.check(at, 0, record)
    wait_for("another controller", lambda: actors_named("ServeController") not in ([], [controller]))
    record("another controller", time.monotonic() - at, 60, "s")
    cluster.wait_running()


def test_killed_ingress_process(cluster: RayCluster, record: Record) -> None:
    cluster.wait_running()
    load = _Load(cluster)
    (ingress,) = cluster.status().ingresses

    at = time.monotonic()
    os.kill(ingress.pid, signal.SIGKILL)

    wait_ended(load.running + load.waiting)
    last = max(stream.seen.ended_at or 0.0 for stream in load.running + load.waiting)
    record("streams of the ingress end", last - at, _ERROR_SECONDS, "s")
    wait_for("another ingress", lambda: cluster.get("/health/ready")[0] == 200)
    record("another ingress is ready", time.monotonic() - at, 30, "s")
    stream = ClientStream(cluster.port, "m", "answered")
    wait_ended([stream])
    assert stream.seen.text == "answered"


def test_killed_ingress_actor_is_replaced_without_a_failed_request(cluster: RayCluster, record: Record) -> None:
    cluster.wait_running()
    (ingress,) = cluster.status().ingresses
    steady = SteadyLoad(lambda: ClientStream(cluster.port, "m", "short"), clients=2)

    at = time.monotonic()
    os.kill(parent_of(ingress.pid), signal.SIGKILL)

    wait_for("another ingress", lambda: any(each.pid != ingress.pid for each in cluster.status().ingresses))
    wait_for("the old one's end", lambda: not alive(ingress.pid))
    record("another ingress has taken over", time.monotonic() - at, 60, "s")
    seen = steady.stop()
    record("requests that failed", sum(each.finish != "stop" for each in seen), 0, f"of {len(seen)}")


def test_killed_node(cluster: RayCluster, record: Record) -> None:
    cluster.wait_running()
    load = _Load(cluster)
    killed, other = cluster.ready("m")
    raylet = parent_of(parent_of(killed.pid))
    node = next(each for each in cluster.nodes if each.all_processes["raylet"][0].process.pid == raylet)
    directory_is_there = parent_of(actors_named("Directory")[0]) == raylet

    at = time.monotonic()
    cluster.kill_node(node)

    load.check(at, _SLOTS, record)
    wait_for("the server's end", lambda: not alive(killed.pid))
    wait_for("another replica", lambda: len(cluster.ready("m")) == 2)
    record("another replica is ready on another node", time.monotonic() - at, 90, "s")
    assert other.id in {each.id for each in cluster.ready("m")}, f"directory on that node: {directory_is_there}"


def test_ray_gone(cluster: RayCluster, record: Record) -> None:
    """Last: first Ray's own controller, then all of Ray."""
    cluster.wait_running()
    (ingress,) = cluster.status().ingresses
    replicas = cluster.ready("m")
    running = _begun(cluster)

    cluster.leave()
    cluster.kill_head()

    wait_ended(running)
    assert [stream.seen.finish for stream in running] == ["stop"] * 4, "replies don't need Ray's controller"
    running = _begun(cluster)

    at = time.monotonic()
    cluster.kill_all()

    wait_ended(running)
    for stream in running:
        assert stream.seen.error, stream.seen
        assert stream.seen.ended_at is not None
        record("running stream: error event after the fault", stream.seen.ended_at - at, _ERROR_SECONDS, "s")
    wait_for("readiness that says so", lambda: "gone" in cluster.get("/health/ready")[1])
    record("readiness fails, and says that Ray is gone", time.monotonic() - at, 5, "s")
    assert cluster.get("/health/ready")[0] == 503
    for replica in replicas:
        wait_for("the server's end", lambda pid=replica.pid: not alive(pid))  # type: ignore[misc]
    os.kill(ingress.pid, signal.SIGKILL)
