"""Whether the cluster takes requests, for health checks and load balancers."""

from __future__ import annotations

import msgspec

from tailrace.cluster.ingress.replicas import Replicas


class Status(msgspec.Struct, omit_defaults=True):
    """The answer at ``/health`` and ``/health/ready``. ``reason``: why it isn't ``ok``."""

    status: str  #: "ok", "loading", "draining" or "unmanaged"
    replicas: int = 0
    replicas_ready: int = 0
    models: int = 0
    models_ready: int = 0
    reason: str | None = None


class Readiness:
    """See the module."""

    def __init__(self, replicas: Replicas) -> None:
        self.parent_gone = False  #: the process that manages the replicas has ended
        self._replicas = replicas

    def status(self, *, draining: bool) -> Status:
        """The state now. A cluster whose models sleep is ready: a request wakes them."""
        replicas, models = self._replicas.all, self._replicas.models
        ready = [replica for replica in replicas if replica.takes_requests]
        status = Status("ok", len(replicas), len(ready), len(models), sum(map(self._replicas.is_ready, models)))
        if draining:
            status.status, status.reason = "draining", "this ingress stops"
        elif self.parent_gone:
            status.status, status.reason = "unmanaged", "the cluster's controller is gone: nothing manages the replicas"
        elif not ready and not any(map(self._replicas.wakes, models)):
            status.status = "loading"
            status.reason = "no replica of any model is ready" if replicas else "there is no replica"
        return status
