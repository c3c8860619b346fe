"""The facts of ``tailrace doctor``: the machine, its limits, the plan, and whether running servers follow theirs.

Gathers and compares; ``doctor`` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from tailrace.cli.placement_facts import PlacementFacts
from tailrace.diagnosis.catalogue import Finding
from tailrace.engine.kernels.kernel_report import KernelReport, report_kernels
from tailrace.engine.model_parts import ModelParts
from tailrace.engine.native_libs.library_report import LibraryReport, report_tiers
from tailrace.engine.native_libs.tiers import TIERS
from tailrace.engine.sampling.logits_ops.native import build as logits_build
from tailrace.errors import ConfigurationError
from tailrace.machine import cpulist
from tailrace.machine.applied_placement import (
    AppliedPlacement,
    cpus_without_own_thread,
    format_memory,
    main_thread_problem,
    placement_differences,
    read_applied_placement,
)
from tailrace.machine.bandwidth import Bandwidth
from tailrace.machine.free_memory import available_memory
from tailrace.machine.gpu import Gpu, build_backends, offloads, read_gpus
from tailrace.machine.isa import Isa, read_isa
from tailrace.machine.machine_warnings import warnings
from tailrace.machine.plan import MachinePlan, ModelNeeds
from tailrace.machine.planner import make_plan
from tailrace.machine.running_servers import LoadedModel, ServerState
from tailrace.machine.topology import Topology, read_topology
from tailrace.protocol import SpeedComparison
from tailrace.settings import Settings


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One NUMA node."""

    node: int
    cores: int
    cpus: str
    usable: str
    memory: int
    available: int
    distances: tuple[int, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the process; None where nothing limits it."""

    usable: str
    affinity: str | None
    cpuset: str | None
    memory_nodes: str | None
    quota: float | None
    memory: int | None
    memory_left: int | None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The model that the plan is for."""

    name: str
    path: str
    needs: ModelNeeds
    parts: ModelParts | None = None  #: which kernels compute them; None where the model wasn't loaded for it
    placement: PlacementFacts | None = None  #: on the settings' devices; None where these name none


class ProcessCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a running server, compared with its plan."""

    process: str
    pid: int | None
    planned: str
    found: str
    problems: list[str]


class ServerCheck(msgspec.Struct, kw_only=True):
    """One running server."""

    port: int
    model: str
    processes: list[ProcessCheck]
    findings: list[Finding] = []  #: what limits it now
    speeds: list[SpeedComparison] = []  #: of the engines with a model that is divided between devices
    unread: str = ""  #: why the findings aren't known

    @property
    def as_planned(self) -> bool:
        """Nothing differs."""
        return not any(process.problems for process in self.processes)


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    cpu: str | None
    isa: Isa
    kernels: KernelReport
    logits_ops: list[LibraryReport]  #: passes over logits in C, by tier; NumPy computes them where none is used
    packages: int
    cores: int
    efficiency_cores: int
    smt: int
    cache_bytes: tuple[int, ...]  #: of each last-level cache
    nodes: list[NodeFacts]
    available: int  #: bytes of memory that can be had without swapping
    limits: Limits
    gpus: list[Gpu]
    backends: tuple[str, ...]
    bandwidth: list[Bandwidth]
    model: ModelFacts | None
    plan: MachinePlan | None  #: None when the settings can't work here
    refused: str | None  #: why they can't
    warnings: list[str]
    servers: list[ServerCheck]

    @property
    def libraries(self) -> list[LibraryReport]:
        """Every native library."""
        return [*self.kernels.libraries, *self.logits_ops]


def diagnose(
    settings: Settings,
    model: ModelFacts | None,
    bandwidth: Sequence[Bandwidth],
    servers: Sequence[ServerState],
    root: Path = Path("/"),
    topology: Topology | None = None,
    *,
    prove: bool = False,
) -> Diagnosis:
    """Look at the machine under ``root``, plan ``settings`` on it, and compare ``servers`` with their plans. ``prove``
    repeats the proofs of the native libraries.
    """
    topology = topology or read_topology(root)
    gpus, backends, available = read_gpus(root), build_backends(), available_memory(root)
    needs = model.needs if model is not None else None
    plan, refused = None, None
    try:
        plan = make_plan(topology, settings, needs, offload=offloads(gpus, backends))
    except ConfigurationError as error:
        refused = str(error)
    kernels, logits_ops = report_kernels(settings.kernels, prove=prove), _logits_ops(settings, prove=prove)
    libraries = [*kernels.libraries, *logits_ops]
    return Diagnosis(
        cpu=topology.model,
        isa=read_isa(root),
        kernels=kernels,
        logits_ops=logits_ops,
        packages=topology.packages,
        cores=len(topology.cores),
        efficiency_cores=sum(core.efficiency for core in topology.cores),
        smt=topology.smt,
        cache_bytes=tuple(cache.bytes for cache in topology.caches),
        nodes=_nodes(topology),
        available=available,
        limits=_limits(topology),
        gpus=gpus,
        backends=backends,
        bandwidth=list(bandwidth),
        model=model,
        plan=plan,
        refused=refused,
        warnings=[
            *warnings(topology, available, gpus=gpus, backends=backends, model=needs, root=root),
            *(f"{library.name} for {library.tier}: {library.reason}" for library in libraries if _fails(library)),
        ],
        servers=[check(server, root) for server in servers],
    )


def _fails(library: LibraryReport) -> bool:
    """Whether the CPU could run it, and something else is against that."""
    return library.state == "wrong" or (library.state == "unavailable" and TIERS[library.tier].supported)


def _logits_ops(settings: Settings, *, prove: bool) -> list[LibraryReport]:
    return report_tiers(
        "logits operations",
        logits_build.LOGITS_TIERS,
        logits_build.TIERS_OF_CHOICE,
        settings.kernels,
        partial(logits_build.build_logits_ops, again=prove),
        logits_build.prove_logits_ops,
        prove=prove,
    )


def check(server: ServerState, root: Path = Path("/")) -> ServerCheck:
    """Compare a server's plan with its processes in /proc under ``root``."""
    processes = []
    planned = f"CPUs {cpulist.format_cpus(server.http_cpus)}" if server.http_cpus else "anywhere"
    found, problems = _applied(server.http, root)
    if found is not None and server.http_cpus and not found.cpus <= set(server.http_cpus):
        problems.append(f"threads may run on CPUs {cpulist.format_cpus(found.cpus)}, planned are {planned}")
    processes.append(_checked("http", server.http, planned, found, problems))
    for model in server.loaded:
        processes += _check_engines(model, root, alone=len(server.models) == 1)
    return ServerCheck(port=server.port, model=", ".join(server.models), processes=processes)


def _check_engines(model: LoadedModel, root: Path, *, alone: bool) -> list[ProcessCheck]:
    """``alone``: the server has no other model, so that its engines need no name."""
    processes = []
    for number, (replica, pid) in enumerate(zip(model.plan.replicas, model.engines, strict=True)):
        planned = f"CPUs {cpulist.format_cpus(replica.cpus)}" if replica.cpus else "anywhere"
        if replica.main:
            planned += f", main thread on CPU {cpulist.format_cpus(replica.main)}"
        if replica.node is not None:
            planned += f", memory on node {replica.node}"
        elif replica.interleave:
            planned += f", memory over nodes {cpulist.format_cpus(replica.interleave)}"
        found, problems = _applied(pid, root)
        if found is not None:
            problems += placement_differences(replica, found)
            if model.pools and (shared := cpus_without_own_thread(replica, found)):
                problems.append(f"on CPUs {cpulist.format_cpus(shared)} no thread is alone, which is planned")
            if model.pools and (astray := main_thread_problem(replica, found)):
                problems.append(astray)
        words = ["engine", *([] if alone else [model.name]), *([str(number)] if len(model.engines) > 1 else [])]
        processes.append(_checked(" ".join(words), pid, planned, found, problems))
    return processes


def _applied(pid: int | None, root: Path) -> tuple[AppliedPlacement | None, list[str]]:
    """The applied placement of the process, or the reason why it isn't known."""
    if pid is None:
        return None, ["it hasn't been started"]
    try:
        found = read_applied_placement(root / f"proc/{pid}")
    except PermissionError:
        return None, ["the kernel tells only its own user, or root"]
    return found, [] if found is not None else ["it isn't running"]


def _checked(
    name: str, pid: int | None, planned: str, found: AppliedPlacement | None, problems: list[str]
) -> ProcessCheck:
    shown = ""
    if found is not None:
        plural = "s" if len(found.threads) > 1 else ""
        shown = f"{len(found.threads)} thread{plural} on CPUs {cpulist.format_cpus(found.cpus)}"
        if found.memory:
            shown += f", {format_memory(found.memory)}"
    return ProcessCheck(process=name, pid=pid, planned=planned, found=shown, problems=problems)


def _nodes(topology: Topology) -> list[NodeFacts]:
    facts = []
    for node in topology.nodes:
        cores = [core for core in topology.cores if core.node == node.number]
        cpus = {cpu for core in cores for cpu in core.cpus}
        facts.append(
            NodeFacts(
                node=node.number,
                cores=len(cores),
                cpus=cpulist.format_cpus(cpus),
                usable=cpulist.format_cpus(cpus & topology.usable),
                memory=node.memory,
                available=node.available,
                distances=node.distances,
            )
        )
    return facts


def _limits(topology: Topology) -> Limits:
    limits, nodes = topology.limits, {node.number for node in topology.nodes}
    affinity = topology.affinity if topology.affinity is not None and topology.affinity < topology.online else None
    cpuset = limits.cpus if limits.cpus is not None and limits.cpus < topology.online else None
    memory_nodes = limits.nodes if limits.nodes is not None and limits.nodes < nodes else None
    return Limits(
        usable=cpulist.format_cpus(topology.usable),
        affinity=None if affinity is None else cpulist.format_cpus(affinity),
        cpuset=None if cpuset is None else cpulist.format_cpus(cpuset),
        memory_nodes=None if memory_nodes is None else cpulist.format_cpus(memory_nodes),
        quota=limits.quota,
        memory=limits.memory,
        memory_left=limits.memory_left,
    )
