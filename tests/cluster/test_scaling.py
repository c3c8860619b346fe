"""The number of replicas follows the load: 1 to 3 and back without a failed request, and to zero and back."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from client_streams import ClientStream, SteadyLoad, wait_ended
from fault_figures import Record
from ray_cluster import RayCluster, ray_cluster
from servers import wait_for


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A model with one to three replicas of two slots, and one that sleeps."""
    os.environ["TAILRACE_FAKE_STEP_SECONDS"] = "0.02"
    try:
        with ray_cluster(2, 2) as started:
            started.deploy(
                {
                    "busy": {
                        "path": "x",
                        "max_replicas": 3,
                        "cores": 1,
                        "parallel": 2,
                        "scale_up_seconds": 1,
                        "scale_down_seconds": 3,
                    },
                    "sleeper": {"path": "y", "min_replicas": 0, "cores": 1, "idle_seconds": 3},
                }
            )
            yield started
    finally:
        del os.environ["TAILRACE_FAKE_STEP_SECONDS"]


def test_replicas_follow_the_load_without_a_failed_request(cluster: RayCluster, record: Record) -> None:
    assert len(cluster.ready("busy")) == 1
    few = SteadyLoad(lambda: ClientStream(cluster.port, "busy", "a reply of some length"), clients=1)
    many = SteadyLoad(lambda: ClientStream(cluster.port, "busy", "a reply of some length"), clients=7)

    at = time.monotonic()
    wait_for("three replicas", lambda: len(cluster.ready("busy")) == 3)
    record("1 to 3 replicas under load", time.monotonic() - at, 60, "s")
    heard = many.stop()
    at = time.monotonic()
    wait_for("one replica", lambda: len([each for each in cluster.status().replicas if each.model == "busy"]) == 1)
    record("3 to 1 replicas", time.monotonic() - at, 60, "s")
    heard += few.stop()

    failed = [seen for seen in heard if seen.text != "a reply of some length" or seen.finish != "stop"]
    record("requests that failed or were lost", len(failed), 0, f"of {len(heard)}")
    assert len(heard) > 50, "there was no load"


def test_model_sleeps_and_a_request_wakes_it(cluster: RayCluster, record: Record) -> None:
    wait_for("no replica", lambda: all(each.model != "sleeper" for each in cluster.status().replicas))

    at = time.monotonic()
    stream = ClientStream(cluster.port, "sleeper", "awake")
    wait_ended([stream])

    assert stream.seen.text == "awake", stream.seen
    record("first reply of a model without replicas", time.monotonic() - at, 60, "s")
    at = time.monotonic()
    wait_for("no replica again", lambda: all(each.model != "sleeper" for each in cluster.status().replicas))
    record("to zero replicas after 3 idle seconds", time.monotonic() - at, 30, "s")
