"""The actor of one ingress: it starts the ingress's process, and tells it of the replicas that the directory knows.

When the directory is lost, the process keeps what it knows. When this actor dies, its process goes on until the next
actor's process listens at the same address.
"""

from __future__ import annotations

import threading
import time

import msgspec
from ray import serve

from tailrace.cluster.config import ClusterConfig
from tailrace.cluster.deployments import closed_port
from tailrace.cluster.deployments.directory import DirectoryClient, DirectoryLost
from tailrace.cluster.deployments.node_address import node_address
from tailrace.cluster.deployments.raylet_tie import end_with_raylet
from tailrace.cluster.deployments.secret import shared_secret
from tailrace.cluster.directory_book import REPORT_SECONDS, IngressRecord
from tailrace.cluster.ingress.orders import ClusterModel, IngressStart, SetModels
from tailrace.cluster.ingress_process import IngressProcess
from tailrace.models.reference import name_keys

#: Starts of the process after which its actor is replaced, too.
_MAX_STARTS = 20
#: Seconds after which a process without a ready replica takes the address over, too.
_TAKE_OVER_SECONDS = 5.0


class Ingress:
    """See the module. ``config``: the cluster's file, as JSON has it."""

    def __init__(self, config: bytes, *_replicas: object) -> None:
        """``_replicas``: handles of the models' deployments, which belong to the application by that alone."""
        checked = msgspec.json.decode(config, type=ClusterConfig)
        settings = msgspec.structs.replace(checked.settings, cluster_secret=shared_secret())
        closed_port.close()
        end_with_raylet()
        self._id = serve.get_replica_context().replica_tag
        self._node = node_address()
        self._host = settings.host
        self._models = tuple(model.name for model in checked.models)
        self._tls = settings.tls_cert is not None
        self._stopped = threading.Event()
        self._process = IngressProcess(IngressStart(settings=settings, reuse_port=True), _models(checked))
        self._reports = threading.Thread(target=self._report, name="reports", daemon=True)
        self._reports.start()

    def check_health(self) -> None:
        """For Serve. Raises RuntimeError where the process ends again and again."""
        if self._process.starts > _MAX_STARTS:
            raise RuntimeError(f"the ingress on {self._node} has ended {self._process.starts} times")

    def __del__(self) -> None:
        """Drain: for Serve, which calls it once before it ends the actor, and Python may once more."""
        if not hasattr(self, "_process") or self._stopped.is_set():
            return
        self._stopped.set()
        self._reports.join(REPORT_SECONDS * 4)
        DirectoryClient().leave(self._id)
        self._process.stop()

    def _report(self) -> None:
        directory = DirectoryClient()
        alone_until, has_taken_over = time.monotonic() + _TAKE_OVER_SECONDS, False
        while not self._stopped.wait(REPORT_SECONDS):
            process = self._process
            record = IngressRecord(
                id=self._id,
                node=self._node,
                host=self._host,
                port=process.port,
                tls=self._tls,
                pid=process.pid,
                models=self._models,
                wanted=process.wanted(),
            )
            try:
                table = directory.report_ingress(record)
            except DirectoryLost:
                continue  # The next report makes another directory.
            process.update(table)
            if not has_taken_over and process.port and (process.has_replica or time.monotonic() >= alone_until):
                has_taken_over = True
                process.take_over()


def _models(config: ClusterConfig) -> SetModels:
    return SetModels(
        models=tuple(
            ClusterModel(
                name=model.name,
                keys=name_keys(model.name, config.settings_of(model).model),
                aliases=config.settings_of(model).aliases,
                max_replicas=model.replicas.max_replicas,
                wakes=model.replicas.min_replicas == 0,
            )
            for model in config.models
        )
    )
