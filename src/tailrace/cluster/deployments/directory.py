"""The directory of a cluster: an actor with a name, to which replicas and ingresses report, and its clients.

The first client that needs it makes it. It dies with its maker or its node, and loses nothing by that: the next report
makes another one, to which all report anew. ``directory_book`` has its contents.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import ray
import ray.exceptions

from tailrace.cluster.autoscaling import Demand
from tailrace.cluster.directory_book import DirectoryBook, IngressRecord, ReplicaRecord, Table

#: Ray's namespace of all actors that are found by name.
NAMESPACE = "tailrace"
_NAME = "directory"
#: Seconds that a call may take. The next report comes soon.
_CALL_SECONDS = 2.0


class DirectoryLost(Exception):
    """The directory can't be reached now."""


class Directory:
    """The actor's class: a ``DirectoryBook`` with a clock."""

    def __init__(self) -> None:
        self._book = DirectoryBook(time.monotonic())

    def report_replica(self, record: ReplicaRecord) -> None:
        """A replica is there."""
        self._book.report_replica(record, time.monotonic())

    def report_ingress(self, record: IngressRecord) -> Table:
        """An ingress is there; everything that it has to know."""
        self._book.report_ingress(record, time.monotonic())
        return self._book.table(time.monotonic())

    def leave(self, id: str) -> None:
        """A replica or ingress has ended."""
        self._book.leave(id)

    def table(self) -> Table:
        """Everything."""
        return self._book.table(time.monotonic())

    def demand(self, model: str) -> Demand | None:
        """The work for a model."""
        return self._book.demand(model, time.monotonic())


class DirectoryClient:
    """Calls of the directory, for one thread."""

    def __init__(self) -> None:
        self._actor: Any = None

    def report_replica(self, record: ReplicaRecord) -> None:
        """A replica is there. Raises DirectoryLost."""
        self._call("report_replica", record)

    def report_ingress(self, record: IngressRecord) -> Table:
        """An ingress is there; everything that it has to know. Raises DirectoryLost."""
        table: Table = self._call("report_ingress", record)
        return table

    def leave(self, id: str) -> None:
        """A replica or ingress has ended. Where the directory is lost, it is forgotten there by itself."""
        with contextlib.suppress(DirectoryLost):
            self._call("leave", id)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            if self._actor is None:
                self._actor = _make()
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=_CALL_SECONDS)
        except (ray.exceptions.RayError, ValueError) as error:  # ValueError: the name of an actor that has just died.
            self._actor = None
            raise DirectoryLost(str(error)) from error


def find_directory() -> Any | None:
    """The actor, if there is one now."""
    try:
        return ray.get_actor(_NAME, NAMESPACE)
    except ValueError:
        return None


def read_table() -> Table | None:
    """Everything that the directory knows; None where there is none. Raises DirectoryLost."""
    actor = find_directory()
    if actor is None:
        return None
    try:
        table: Table = ray.get(actor.table.remote(), timeout=_CALL_SECONDS)
    except ray.exceptions.RayError as error:
        raise DirectoryLost(str(error)) from error
    return table


def _make() -> Any:
    return (
        ray.remote(Directory)
        .options(name=_NAME, namespace=NAMESPACE, get_if_exists=True, num_cpus=0, max_concurrency=1)
        .remote()
    )
