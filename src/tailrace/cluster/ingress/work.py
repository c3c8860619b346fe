"""What the ingress works on: its settings, the memory of bodies, and the requests that are being relayed.

``http_server`` drains it.
"""

from __future__ import annotations

from tailrace.cluster.ingress.orders import IngressStart
from tailrace.cluster.ingress.relay import Relay, stopping
from tailrace.server.body_memory import BodyMemory
from tailrace.server.memory_trim import MemoryTrim
from tailrace.settings import Settings


class IngressWork:
    """See the module, and ``ServedWork``."""

    def __init__(self, start: IngressStart) -> None:
        self.start = start
        self.draining = False
        self.bodies = BodyMemory(start.settings.body_memory_mb * 1_000_000, start.settings.body_seconds)
        self.memory_trim = MemoryTrim()
        self.relays: set[Relay] = set()

    @property
    def settings(self) -> Settings:
        """See ``ServedWork``."""
        return self.start.settings

    @property
    def in_flight(self) -> int:
        """See ``ServedWork``."""
        return len(self.relays)

    def begin_stop(self) -> int:
        """See ``ServedWork``. Requests that an engine hasn't begun with go to the next ingress."""
        waiting = [relay for relay in self.relays if relay.waits]
        for relay in waiting:
            relay.fail(stopping())
        return len(waiting)

    def end_all(self) -> int:
        """See ``ServedWork``."""
        for relay in list(self.relays):
            relay.fail(stopping())
        return len(self.relays)
