"""The words about a cluster: each change once, and tables with all that runs."""

from __future__ import annotations

import io

from rich.console import Console

from tailrace.cli.cluster_rows import changes, listening_urls, tables
from tailrace.cluster.directory_book import IngressRecord, ReplicaRecord
from tailrace.cluster.status import ClusterStatus, shortened
from tailrace.cluster_protocol.state import ModelLoad

_STARTING = ReplicaRecord(id="r1", model="m", node="10.0.0.1", host="10.0.0.1", port=0, pid=0, phase="starting")
_READY = ReplicaRecord(
    id="r1",
    model="m",
    node="10.0.0.1",
    host="10.0.0.1",
    port=9000,
    pid=7,
    phase="ready",
    load=ModelLoad(name="m", running=3, waiting=2, waiting_prompt_tokens=1234, slots=8),
)
_INGRESS = IngressRecord(
    id="i1",
    node="10.0.0.1",
    host="0.0.0.0",
    port=8000,
    tls=True,
    pid=8,
    models=("m", "n"),
    wanted={"n": 2},
)


def test_each_change_is_one_line() -> None:
    empty = ClusterStatus(status="deploying")
    starting = ClusterStatus(status="deploying", replicas=(_STARTING,), hindrances={"m": "no CPU is free"})
    ready = ClusterStatus(status="running", replicas=(_READY,), ingresses=(_INGRESS,))

    assert list(changes(empty, starting)) == ["m: replica r1 starts on 10.0.0.1", "m: no CPU is free"]
    assert list(changes(starting, starting)) == []
    assert list(changes(starting, ready)) == [
        "m: replica r1 is ready at 10.0.0.1:9000",
        "ingress i1 listens on https://10.0.0.1:8000",
    ]
    assert list(changes(ready, empty)) == ["m: replica r1 has gone from 10.0.0.1"]


def test_message_of_ray_is_shown_without_its_tracebacks() -> None:
    message = "A replica failed to start. Error:\nTraceback (most recent call last):\n  File x\nReason: no file\n"

    assert shortened(message) == "A replica failed to start. Reason: no file"
    assert shortened("waiting for 1 CPU ") == "waiting for 1 CPU"


def test_urls_are_those_of_ingresses_that_listen() -> None:
    assert listening_urls(ClusterStatus(status="running", ingresses=(_INGRESS,))) == ["https://10.0.0.1:8000"]


def test_tables_show_replicas_with_their_load_and_ingresses() -> None:
    output = io.StringIO()
    console = Console(file=output, width=200)
    for table in tables(ClusterStatus(status="running", replicas=(_STARTING, _READY), ingresses=(_INGRESS,))):
        console.print(table)

    for text in ("running", "r1", "starting", "10.0.0.1:9000", "3 of 8", "1234", "https://10.0.0.1:8000", "n: 2"):
        assert text in output.getvalue()
    assert "\nn " in output.getvalue(), "a model without replicas has a row, too"
