"""A model's settings and places on this machine, as one load has them: what fits into memory now, and the plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from tailrace.errors import ModelError
from tailrace.machine.free_memory import read_memory
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.memory_fit import Memory, MemoryDemand, fit_to_memory
from tailrace.machine.plan import MachinePlan
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.serving.memory_share import engine_bytes, fill_budget, limited, load_bytes, share_memory
from tailrace.serving.model_memory import check_cache_types, engine_demand, memory_demand, model_needs
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings


@dataclass(frozen=True)
class PlannedModel:
    """A model that can be loaded now."""

    spec: ModelSpec  #: with a context and caches that fit
    plan: MachinePlan
    bytes: int  #: all that its engines may come to take, as estimated


def plan_only_model(spec: ModelSpec) -> PlannedModel:
    """Plan the only model of a server, which may have all of the memory, or ``models_mb``.

    Raises ConfigurationError when a setting can't work here, or when the model can't fit.
    """
    offload, plan = _plan(spec)
    settings, path = spec.settings, _path(spec)
    if path is not None and (not offload or settings.gpu_layers == 0):
        try:
            demand = memory_demand(path, settings)
            settings = fill_budget(_fit(demand, settings, plan, limited(read_memory(), settings)), demand)
        except (ModelError, OSError):
            pass  # The engine reports what is wrong with the file.
    return PlannedModel(msgspec.structs.replace(spec, settings=settings), plan, 0)


def plan_model(spec: ModelSpec, budget: int) -> PlannedModel:
    """Plan one of several models, with its share of the ``budget`` and the memory that is free now. Raises as
    ``plan_only_model``.
    """
    offload, plan = _plan(spec)
    path = _path(spec)
    if path is None:
        return PlannedModel(spec, plan, load_bytes(spec, budget))
    try:
        demand = engine_demand(path, spec.settings)
    except (ModelError, OSError):
        return PlannedModel(spec, plan, load_bytes(spec, budget))
    settings = share_memory(spec.settings, demand, budget)
    if not offload or settings.gpu_layers == 0:
        fitting = _fit(demand, spec.settings, plan, read_memory())
        if fitting.ctx and fitting.ctx < settings.ctx:
            settings = msgspec.structs.replace(settings, ctx=fitting.ctx, kv_tokens=fitting.kv_tokens or fitting.ctx)
    if settings.ctx < demand.context and not spec.settings.ctx:
        structlog.get_logger().info(
            "a request may have fewer tokens than the model was trained for: several models share the memory",
            model=spec.name,
            tokens=settings.ctx,
            trained=demand.context,
        )
    spec = msgspec.structs.replace(spec, settings=settings)
    return PlannedModel(spec, plan, engine_bytes(settings, demand) * len(plan.replicas))


def plan_server(settings: Settings) -> MachinePlan:
    """The plan of a server of several models: the HTTP process's part holds, whichever models are loaded.

    Raises ConfigurationError when a setting can't work on this machine.
    """
    return make_plan(read_topology(), settings, offload=offloads(read_gpus(), build_backends()))


def _path(spec: ModelSpec) -> Path | None:
    return Path(spec.path) if spec.path is not None else None


def _plan(spec: ModelSpec) -> tuple[bool, MachinePlan]:
    """Whether layers will be on a GPU or a worker, and the plan. Raises ConfigurationError."""
    path = _path(spec)
    has_devices = spec.settings.devices is not None or offloads(read_gpus(), build_backends())
    offload = path is not None and has_devices
    needs = None
    try:
        if path is not None:
            check_cache_types(path, spec.settings)
            needs = model_needs(path, spec.settings)
    except (ModelError, OSError):
        pass  # The engine reports what is wrong with a file that can't be loaded.
    return offload, make_plan(read_topology(), spec.settings, needs, offload=offload)


def _fit(demand: MemoryDemand, settings: Settings, plan: MachinePlan, memory: Memory) -> Settings:
    private = sum(replica.node is not None or bool(replica.interleave) for replica in plan.replicas)
    fitting, warnings = fit_to_memory(demand, settings, memory, private_copies=private)
    for warning in warnings:
        structlog.get_logger().warning(warning)
    return fitting
