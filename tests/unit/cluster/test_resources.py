"""What a replica takes: as the file says, or as one server's plan; and how it is kept to its part of a node."""

from __future__ import annotations

from tailrace.cluster.config import Replicas
from tailrace.cluster.resources import ReplicaResources, confined, replica_resources
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.settings import Settings

_FAKE = Settings(backend="fake")
_TOPOLOGY = read_topology()


def test_file_decides() -> None:
    found = replica_resources(_FAKE, Replicas(cores=3, memory_mb=4000, gpus=0.5))

    expected = ReplicaResources(cores=3, cpus=3 * _TOPOLOGY.smt, memory_mb=4000, gpus=0.5)
    assert found == expected


def test_plan_decides_where_the_file_is_silent() -> None:
    plan = make_plan(_TOPOLOGY, _FAKE)

    found = replica_resources(_FAKE, Replicas())

    assert found.cores == sum(each.decode.threads for each in plan.replicas)
    assert found.memory_mb == 0, "the scripted backend has no file by which to judge"


def test_replica_with_a_part_of_a_node_keeps_to_its_cores() -> None:
    part = ReplicaResources(cores=0, cpus=0, memory_mb=0, gpus=0)

    assert confined({}, {"ctx": 5}, part, _TOPOLOGY) == {"threads": 0, "pin": "off", "ctx": 5}
    assert confined({"pin": "on"}, {"threads": 1}, part, _TOPOLOGY) == {"threads": 1}
    assert confined({}, {"cpus": "0"}, part, _TOPOLOGY) == {"threads": 0, "cpus": "0"}


def test_replica_with_a_whole_node_plans_it_alone() -> None:
    cores = len(_TOPOLOGY.usable_cores)
    whole = ReplicaResources(cores=cores, cpus=cores, memory_mb=0, gpus=0)

    assert confined({}, {"ctx": 5}, whole, _TOPOLOGY) == {"ctx": 5}
