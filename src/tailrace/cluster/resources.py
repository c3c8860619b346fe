"""What a replica takes of its node: from the cluster's file, or from this machine's plan and the model's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tailrace.cluster.config import Replicas
from tailrace.errors import ModelError
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import Topology, read_topology
from tailrace.models.model_reference import locate_model
from tailrace.serving.memory_share import engine_bytes
from tailrace.serving.model_memory import memory_demand, model_needs
from tailrace.settings import Settings

_MB = 1_000_000


class ReplicaResources(msgspec.Struct, frozen=True, kw_only=True):
    """The resources of one replica. Ray gives them out, and holds no process to them."""

    cores: int  #: physical cores
    cpus: int  #: the same as Ray counts them: with each SMT sibling
    memory_mb: int  #: 0: it isn't known, because the model isn't on this machine
    gpus: float


def replica_resources(settings: Settings, replicas: Replicas) -> ReplicaResources:
    """The resources of a model's replica. ``settings``: the model's. Raises ConfigurationError."""
    path = _path(settings)
    topology = read_topology()
    offload = path is not None and settings.gpu_layers != 0 and offloads(read_gpus(), build_backends())
    cores, memory_mb, gpus = replicas.cores, replicas.memory_mb, replicas.gpus
    if cores is None:
        try:
            needs = model_needs(path, settings) if path is not None else None
        except (ModelError, OSError):
            needs = None  # The replica reports what is wrong with the file.
        plan = make_plan(topology, settings, needs, offload=offload)
        cores = sum(replica.decode.threads for replica in plan.replicas)
    if memory_mb is None:
        memory_mb = _memory_mb(path, settings)
    if gpus is None:
        gpus = 1.0 if offload else 0.0
    return ReplicaResources(cores=cores, cpus=cores * topology.smt, memory_mb=memory_mb, gpus=gpus)


def confined(
    settings: Mapping[str, Any], section: Mapping[str, Any], resources: ReplicaResources, topology: Topology
) -> dict[str, Any]:
    """A model's ``section`` with the settings that keep a replica to its part of a node, where the file sets none.

    A replica that has all cores of its node plans them as a server does that is alone there.
    """
    bounds: dict[str, Any] = {}
    if resources.cores < len(topology.usable_cores):
        # Replicas of one node don't know of each other, so none of them binds its threads to certain cores.
        bounds |= {"threads": resources.cores, "pin": "off"}
    given = settings.keys() | section.keys()
    if not given.isdisjoint({"cpus", "cpus_prefill", "pin"}):
        bounds.pop("pin", None)
    return {**{name: value for name, value in bounds.items() if name not in given}, **section}


def _path(settings: Settings) -> Path | None:
    """The model's file, if it is on this machine. Its replicas fetch it where it isn't."""
    if settings.backend == "fake":
        return None
    try:
        return locate_model(settings.model).path
    except ModelError:
        return None


def _memory_mb(path: Path | None, settings: Settings) -> int:
    """Weights, buffers, and the caches of one whole context and of finished prompts."""
    if path is None:
        return 0
    try:
        demand = memory_demand(path, settings)
    except (ModelError, OSError):
        return 0
    if not settings.ctx and not settings.kv_tokens:
        settings = msgspec.structs.replace(settings, ctx=demand.context)
    return -(-engine_bytes(settings, demand) // _MB)
