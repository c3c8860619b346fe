"""The directory: it forgets what no longer reports, says when it may not know all, and counts the work for a model."""

from __future__ import annotations

from tailrace.cluster.autoscaling import Demand
from tailrace.cluster.directory_book import FORGET_SECONDS, DirectoryBook, IngressRecord, ReplicaRecord
from tailrace.cluster_protocol.state import ModelLoad, ReplicaPhase


def replica(
    id: str, *, model: str = "m", port: int = 9, phase: ReplicaPhase = "ready", load: ModelLoad | None = None
) -> ReplicaRecord:
    return ReplicaRecord(id=id, model=model, node="10.0.0.1", host="10.0.0.1", port=port, pid=1, phase=phase, load=load)


def _ingress(id: str, **wanted: int) -> IngressRecord:
    return IngressRecord(id=id, node="10.0.0.1", host="0.0.0.0", port=8000, tls=False, pid=2, wanted=wanted)


def test_directory_knows_what_reports() -> None:
    book = DirectoryBook(0)
    book.report_replica(replica("b"), 1)
    book.report_replica(replica("a"), 1)
    book.report_ingress(_ingress("i"), 1)

    table = book.table(2)

    assert [each.id for each in table.replicas] == ["a", "b"]
    assert [each.id for each in table.ingresses] == ["i"]


def test_directory_forgets_what_no_longer_reports_or_leaves() -> None:
    book = DirectoryBook(0)
    for id in ("silent", "steady", "leaving"):
        book.report_replica(replica(id), 0)
    book.report_replica(replica("steady"), FORGET_SECONDS)
    book.leave("leaving")

    assert [each.id for each in book.table(FORGET_SECONDS + 0.1).replicas] == ["steady"]


def test_new_directory_is_not_complete_before_all_have_reported() -> None:
    book = DirectoryBook(100)
    book.report_replica(replica("a", load=ModelLoad(name="m")), 101)

    assert not book.table(101).complete
    assert book.demand("m", 101) is None, "work that isn't known isn't no work"
    assert book.table(106).complete


def test_demand_is_the_load_of_ready_replicas_and_what_waits_at_all_ingresses() -> None:
    book = DirectoryBook(0)
    load = ModelLoad(name="m", running=3, slots=8)
    for id, phase in (("a", "ready"), ("b", "draining"), ("c", "starting")):
        book.report_replica(replica(id, phase=phase, load=load), 10)  # type: ignore[arg-type]
    book.report_replica(replica("other", model="n", load=load), 10)
    book.report_ingress(_ingress("i", m=2, n=5), 10)
    book.report_ingress(_ingress("j", m=1), 10)

    assert book.demand("m", 10) == Demand(loads=(load,), wanted=3)
