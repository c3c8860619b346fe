"""The actor of one replica: it starts the replica's process, reports it to the directory, and drains it at the end.

Serve makes it, asks for its health, and calls ``__del__`` before it ends it. The model is loaded when ``__init__``
returns, so that Serve counts no replica that can't answer.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import msgspec
from ray import serve

from tailrace.cluster.config import ModelConfig
from tailrace.cluster.deployments import closed_port
from tailrace.cluster.deployments.directory import DirectoryClient, DirectoryLost
from tailrace.cluster.deployments.node_address import node_address
from tailrace.cluster.deployments.raylet_tie import end_with_raylet
from tailrace.cluster.deployments.secret import shared_secret
from tailrace.cluster.directory_book import REPORT_SECONDS, ReplicaRecord
from tailrace.cluster.replica_process import ReplicaEnded, ReplicaOrders, ReplicaProcess
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster.resources import ReplicaResources, confined
from tailrace.cluster.state_reader import StateReader
from tailrace.cluster_protocol.state import ReplicaPhase
from tailrace.machine.topology import read_topology

#: Seconds between the report that a replica drains and its drain: every ingress has read the directory twice.
_NOTICE_SECONDS = 3 * REPORT_SECONDS


class Replica:
    """See the module."""

    def __init__(self, model: bytes, settings: bytes, resources: bytes, drain_seconds: float) -> None:
        """``model``: a ``ModelConfig``, ``settings``: the cluster's, ``resources``: ``ReplicaResources``, all as JSON.

        Raises ReplicaEnded when the model can't be served.
        """
        config = msgspec.json.decode(model, type=ModelConfig)
        server = msgspec.json.decode(settings, type=dict[str, Any])
        taken = msgspec.json.decode(resources, type=ReplicaResources)
        if config.replicas.memory_mb is not None:
            server["models_mb"] = config.replicas.memory_mb
        closed_port.close()
        end_with_raylet()
        self._id = serve.get_replica_context().replica_tag
        self._model = config.name
        self._node = node_address()
        secret = shared_secret()
        self._phase: ReplicaPhase = "starting"
        self._drained = False
        self._stopped = threading.Event()
        self._reader: StateReader | None = None
        self._view = ReplicaView(id=self._id, host=self._node, port=0)
        self._process = ReplicaProcess(
            ReplicaOrders(
                model=config.name,
                settings=server,
                section=confined(server, config.section, taken, read_topology()),
                host=self._node,
                secret=secret,
                drain_seconds=drain_seconds,
            )
        )
        self._reports = threading.Thread(target=self._report, name="reports", daemon=True)
        self._reports.start()
        try:
            self._view.port = self._process.wait_ready()
        except ReplicaEnded:
            self._stopped.set()
            raise
        self._reader = StateReader(self._view, secret)
        self._phase = "ready"

    def check_health(self) -> None:
        """For Serve. Raises ReplicaEnded when the process has given up."""
        if self._process.has_ended:
            raise ReplicaEnded(self._process.ending)

    def __del__(self) -> None:
        """Drain: for Serve, which calls it once before it ends the actor, and Python may once more."""
        if self._drained or not hasattr(self, "_process"):
            return
        self._drained = True
        self._phase = "draining"
        if not self._process.has_ended:
            with contextlib.suppress(DirectoryLost):
                DirectoryClient().report_replica(self._record())
            time.sleep(_NOTICE_SECONDS)
            self._process.drain()
        self._stopped.set()
        self._reports.join(REPORT_SECONDS * 4)
        if self._reader is not None:
            self._reader.stop()
        DirectoryClient().leave(self._id)

    def _record(self) -> ReplicaRecord:
        loads = self._view.models
        return ReplicaRecord(
            id=self._id,
            model=self._model,
            node=self._node,
            host=self._node,
            port=self._view.port,
            pid=self._process.pid,
            phase=self._phase,
            load=loads.get(self._model),
        )

    def _report(self) -> None:
        directory = DirectoryClient()
        while not self._stopped.wait(REPORT_SECONDS):
            if self._process.has_ended:
                directory.leave(self._id)
                continue
            try:
                directory.report_replica(self._record())
            except DirectoryLost:
                pass  # The next report makes another directory.
