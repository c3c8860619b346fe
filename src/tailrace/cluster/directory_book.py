"""What the cluster's directory knows: the replicas that report to it, the ingresses, and what waits at them.

Everything in it is reported anew every ``REPORT_SECONDS``, so a directory that starts empty is complete after a few of
them, and what isn't reported any more is forgotten. Pure: it reads no clock, and Ray isn't imported.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tailrace.cluster.autoscaling import Demand
from tailrace.cluster_protocol.state import ModelLoad, ReplicaPhase

#: Seconds between two reports of one replica or ingress.
REPORT_SECONDS = 0.5
#: Seconds after which a replica or ingress that doesn't report is forgotten. Of a replica that dies, the ingress learns
#: by its state channel long before.
FORGET_SECONDS = 10.0
#: Seconds after its start in which the directory may not have heard of every replica yet.
_GATHER_SECONDS = 5.0


class ReplicaRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One replica, as its actor reports it."""

    id: str
    model: str  #: the name in the cluster's file
    node: str  #: the IP address of its node
    host: str
    port: int  #: 0 while it starts
    pid: int  #: of its supervisor's process; 0 while there is none
    phase: ReplicaPhase
    load: ModelLoad | None = None  #: None until its state channel has said it


class IngressRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One ingress, as its actor reports it."""

    id: str
    node: str
    host: str
    port: int  #: 0 while it doesn't listen
    tls: bool
    pid: int
    models: tuple[str, ...] = ()  #: names of all models that the cluster serves
    wanted: dict[str, int] = {}  #: requests that wait for a replica, by the model's name


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All that the directory knows. ``complete``: whether it has been there long enough to know all."""

    complete: bool
    replicas: tuple[ReplicaRecord, ...] = ()
    ingresses: tuple[IngressRecord, ...] = ()


_Record = TypeVar("_Record", ReplicaRecord, IngressRecord)


class DirectoryBook:
    """See the module. ``started``: the time by the clock of which all methods have the time."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._replicas: dict[str, tuple[float, ReplicaRecord]] = {}
        self._ingresses: dict[str, tuple[float, IngressRecord]] = {}

    def report_replica(self, record: ReplicaRecord, now: float) -> None:
        """A replica is there."""
        self._replicas[record.id] = (now, record)

    def report_ingress(self, record: IngressRecord, now: float) -> None:
        """An ingress is there."""
        self._ingresses[record.id] = (now, record)

    def leave(self, id: str) -> None:
        """A replica or ingress has ended."""
        self._replicas.pop(id, None)
        self._ingresses.pop(id, None)

    def table(self, now: float) -> Table:
        """Everything, by model and id."""
        replicas = sorted(_current(self._replicas, now), key=lambda record: (record.model, record.id))
        ingresses = sorted(_current(self._ingresses, now), key=lambda record: record.id)
        return Table(
            complete=now - self._started >= _GATHER_SECONDS, replicas=tuple(replicas), ingresses=tuple(ingresses)
        )

    def demand(self, model: str, now: float) -> Demand | None:
        """The work for a model; None as long as not all may have reported."""
        table = self.table(now)
        if not table.complete:
            return None
        ready = [each for each in table.replicas if each.model == model and each.phase == "ready"]
        return Demand(
            loads=tuple(each.load for each in ready if each.load is not None),
            wanted=sum(each.wanted.get(model, 0) for each in table.ingresses),
        )


def _current(records: dict[str, tuple[float, _Record]], now: float) -> list[_Record]:
    for id in [id for id, (at, _) in records.items() if now - at > FORGET_SECONDS]:
        del records[id]
    return [record for _, record in records.values()]
