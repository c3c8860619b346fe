"""The orders for an ingress: a replica is added once, removed when it drains or goes, kept while that isn't known."""

from __future__ import annotations

from tailrace.cluster.directory_book import ReplicaRecord, Table
from tailrace.cluster.ingress.orders import AddReplica, RemoveReplica
from tailrace.cluster.ingress_feed import IngressFeed
from tailrace.cluster_protocol.state import ReplicaPhase


def _replica(id: str, port: int = 9, phase: ReplicaPhase = "ready") -> ReplicaRecord:
    return ReplicaRecord(id=id, model="m", node="n", host="h", port=port, pid=1, phase=phase)


def _table(*replicas: ReplicaRecord, complete: bool = True) -> Table:
    return Table(complete=complete, replicas=replicas)


def test_replica_is_added_once_it_has_an_address() -> None:
    feed = IngressFeed()

    assert feed.update(_table(_replica("a", port=0, phase="starting"))) == []
    assert feed.update(_table(_replica("a"))) == [AddReplica(id="a", host="h", port=9, models=("m",))]
    assert feed.update(_table(_replica("a"))) == []


def test_replica_that_drains_is_removed_and_not_added_again() -> None:
    feed = IngressFeed()
    feed.update(_table(_replica("a")))

    assert feed.update(_table(_replica("a", phase="draining"))) == [RemoveReplica(id="a")]
    assert feed.update(_table(_replica("a", phase="draining"))) == []


def test_young_directory_takes_no_replica_away() -> None:
    feed = IngressFeed()
    feed.update(_table(_replica("a")))

    assert feed.update(_table(complete=False)) == []
    assert feed.update(_table(_replica("b"), complete=False)) == [AddReplica(id="b", host="h", port=9, models=("m",))]
    assert feed.update(_table(_replica("b"))) == [RemoveReplica(id="a")]


def test_new_process_is_told_of_all_replicas() -> None:
    feed = IngressFeed()
    feed.update(_table(_replica("a"), _replica("b")))
    feed.update(_table(_replica("b")))

    assert feed.all_orders() == [AddReplica(id="b", host="h", port=9, models=("m",))]
