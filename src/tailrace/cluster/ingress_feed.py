"""The orders for an ingress, which lead from the replicas that it knows to those that the directory knows. Pure."""

from __future__ import annotations

from tailrace.cluster.directory_book import ReplicaRecord, Table
from tailrace.cluster.ingress.orders import AddReplica, Order, RemoveReplica


class IngressFeed:
    """See the module. A new process is told ``all_orders``, and from then on what ``update`` returns."""

    def __init__(self) -> None:
        self._known: dict[str, AddReplica] = {}

    def update(self, table: Table) -> list[Order]:
        """Take in what the directory knows; the orders that follow.

        A replica that drains is removed. One that isn't in the table is removed as well, unless the directory is so
        young that it may not know all.
        """
        there = {each.id: each for each in table.replicas}
        orders: list[Order] = []
        for id in list(self._known):
            record = there.get(id)
            if record.phase == "draining" if record is not None else table.complete:
                del self._known[id]
                orders.append(RemoveReplica(id=id))
        for id, record in there.items():
            if id not in self._known and record.port and record.phase != "draining":
                self._known[id] = _added(record)
                orders.append(self._known[id])
        return orders

    def all_orders(self) -> list[Order]:
        """The orders for a process that knows nothing yet."""
        return list(self._known.values())


def _added(record: ReplicaRecord) -> AddReplica:
    return AddReplica(id=record.id, host=record.host, port=record.port, models=(record.model,))
