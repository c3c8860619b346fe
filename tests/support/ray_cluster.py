"""A Ray cluster of several nodes on this machine, with a cluster's application on it, and how tests look at it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from ray.cluster_utils import Cluster

from servers import wait_for
from tailrace.cluster.config import parse_config
from tailrace.cluster.deployments import deployed, local_ray
from tailrace.cluster.directory_book import ReplicaRecord
from tailrace.cluster.status import ClusterStatus


class RayCluster:
    """The cluster. ``cpus``: of each node beside the head, which has none."""

    def __init__(self, cpus: tuple[int, ...]) -> None:
        self._ray = Cluster(initialize_head=True, head_node_args={**_NODE, "num_cpus": 0})
        self._head: Any = self._ray.head_node
        self._has_joined = True
        self.nodes = [self.add_node(each) for each in cpus]
        local_ray.join(str(self._ray.address))
        self.port = free_port()

    def add_node(self, cpus: int) -> Any:
        """Another node."""
        return self._ray.add_node(**_NODE, num_cpus=cpus)

    def kill_node(self, node: Any) -> None:
        """Kill all of Ray's processes of a node. Its actors notice it themselves."""
        self._ray.remove_node(node, allow_graceful=False)

    def leave(self) -> None:
        """Have the test's process leave the cluster, which it couldn't survive."""
        self._has_joined = False
        local_ray.leave()

    def kill_head(self) -> None:
        """Kill Ray's own controller, which all nodes need."""
        self._head.kill_gcs_server()

    def kill_all(self) -> None:
        """Kill all processes of all nodes at once. Actors notice it themselves."""
        nodes = [*self._ray.worker_nodes, self._head]
        for infos in [infos for node in nodes for infos in node.all_processes.values()]:
            for info in infos:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(info.process.pid, signal.SIGKILL)

    def deploy(self, models: Mapping[str, Mapping[str, Any]], **settings: Any) -> None:
        """Deploy an application with the scripted backend, and wait until it serves."""
        table = {"port": self.port, "backend": "fake", "access_log": False, "models": models, **settings}
        deployed.deploy(parse_config(table, "the test", {}))
        self.wait_running()

    def wait_running(self) -> None:
        """Wait until all replicas are there, and the ingress knows of one for each model."""
        wait_for("the application", lambda: self.status().status == "running")
        wait_for("a ready ingress", lambda: self.get("/health/ready")[0] == 200)

    def status(self) -> ClusterStatus:
        """What runs now."""
        return deployed.read_status()

    def ready(self, model: str) -> list[ReplicaRecord]:
        """A model's replicas that take requests."""
        return [each for each in self.status().replicas if each.model == model and each.phase == "ready"]

    def get(self, path: str) -> tuple[int, str]:
        """The ingress's answer; status 0 where it can't be reached."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def close(self) -> None:
        """End everything that still runs."""
        if self._has_joined:
            deployed.remove()
            self.leave()
        self._ray.shutdown()  # type: ignore[no-untyped-call]


_NODE: dict[str, Any] = {
    "node_ip_address": "127.0.0.1",
    "include_dashboard": False,
    "object_store_memory": 80_000_000,
}


@contextlib.contextmanager
def ray_cluster(*cpus: int) -> Iterator[RayCluster]:
    """A cluster with a folder of its own, for the time of the block."""
    with tempfile.TemporaryDirectory(prefix="tr-", dir="/tmp") as folder:  # Ray's sockets need a short path.
        os.environ["RAY_TMPDIR"] = folder
        cluster = RayCluster(cpus)
        try:
            yield cluster
        finally:
            cluster.close()
            del os.environ["RAY_TMPDIR"]


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def parent_of(pid: int) -> int:
    """The parent's process id."""
    shown = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(shown.stdout)


def actors_named(title: str) -> list[int]:
    """The processes of this cluster's actors whose title contains ``title``."""
    shown = subprocess.run(["ps", "-axo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True)
    found = []
    for line in shown.stdout.splitlines():
        pid, ppid, state, command = line.split(None, 3)
        is_actor = command.startswith("ray::") and title in command and not state.startswith("Z")
        if is_actor and parent_of(int(ppid)) == os.getpid():
            found.append(int(pid))
    return found
