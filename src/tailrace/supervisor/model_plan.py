"""A model's settings and places on this machine, as one load has them: what fits into memory now, and the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from tailrace.errors import ModelError
from tailrace.machine.free_memory import read_memory
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.memory_fit import fit_to_memory
from tailrace.machine.plan import MachinePlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.serving.model_memory import memory_demand, model_needs
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


@dataclass(frozen=True)
class PlannedModel:
    """A model that can be loaded now."""

    spec: ModelSpec  #: with a context that fits
    plan: MachinePlan


def plan_model(spec: ModelSpec) -> PlannedModel:
    """Plan the model on this machine, with the memory that is free now.

    Raises ConfigurationError when a setting can't work here, or when the model can't fit.
    """
    path = Path(spec.path) if spec.path is not None else None
    offload = path is not None and offloads(read_gpus(), build_backends())
    plan = _plan(path, spec.settings, offload=offload)
    settings = spec.settings
    if path is not None and (not offload or settings.gpu_layers == 0):
        settings = _fit(path, settings, plan)
    return PlannedModel(msgspec.structs.replace(spec, settings=settings), plan)


def plan_server(settings: Settings) -> MachinePlan:
    """The plan of a server of several models: the HTTP process's part holds, whichever models are loaded.

    Raises ConfigurationError when a setting can't work on this machine.
    """
    return make_plan(read_topology(), settings, offload=offloads(read_gpus(), build_backends()))


def _plan(path: Path | None, settings: Settings, *, offload: bool) -> MachinePlan:
    try:
        needs = None if path is None else model_needs(path, settings)
    except (ModelError, OSError):
        needs = None  # The engine reports what is wrong with a file that can't be loaded.
    return make_plan(read_topology(), settings, needs, offload=offload)


def _fit(path: Path, settings: Settings, plan: MachinePlan) -> Settings:
    try:
        demand = memory_demand(path, settings)
    except (ModelError, OSError):
        return settings  # The engine reports what is wrong with the file.
    private = sum(replica.node is not None or bool(replica.interleave) for replica in plan.replicas)
    fitting, warnings = fit_to_memory(demand, settings, read_memory(), private_copies=private)
    for warning in warnings:
        structlog.get_logger().warning(warning)
    return fitting
