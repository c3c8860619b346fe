"""``tailrace doctor``: this machine, the plan for it with reasons, and whether running servers follow theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from tailrace.cli import console_output, doctor_report
from tailrace.cli.doctor_facts import ModelFacts, diagnose
from tailrace.cli.model_argument import find_model
from tailrace.cli.placement_facts import placement_facts
from tailrace.cli.stats_client import read_stats
from tailrace.cli.tuned_settings import resolve_tuned
from tailrace.device_figures.device_watch import DeviceWatch
from tailrace.engine.model_parts import measure_parts
from tailrace.errors import ConfigurationError
from tailrace.machine.bandwidth import measure_bandwidth
from tailrace.machine.gpu import build_backends, offloads, read_gpus
from tailrace.machine.running_servers import ServerState, find_servers
from tailrace.machine.topology import read_topology
from tailrace.models.store import Store
from tailrace.serving.model_memory import model_needs

#: Exit status when a running server differs from its plan.
_DIFFERS = 1
#: Seconds that a GPU's driver has to report its memory.
_DRIVER_SECONDS = 3.0
_AS_SERVE = "Plan as serve would with it."


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="Plan for this model [the one that is set, if it is here].")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Check only the server on this port [every server of yours].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    prove: Annotated[
        bool, typer.Option(help="Prove the kernels' results again (some seconds); exit status 1: some are wrong.")
    ] = False,
    bandwidth: Annotated[bool, typer.Option(help="Measure memory bandwidth (a second a node).")] = True,
    parts: Annotated[
        bool, typer.Option(help="Load the model that is named, to see which kernels compute its parts.")
    ] = True,
    threads: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    threads_prefill: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    cpus: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    cpus_prefill: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    http_cpus: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    pin: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    poll: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    thread_priority: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    replicas: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    numa: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    ctx: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    gpu_layers: Annotated[int | None, typer.Option(help=_AS_SERVE)] = None,
    devices: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    placement: Annotated[str | None, typer.Option(help=_AS_SERVE)] = None,
    config: Annotated[Path | None, typer.Option(help="Settings file instead of the user's own.")] = None,
) -> None:
    """Show this machine, the plan made of it and why, and whether running servers have it so (exit status 1: not)."""
    own = {"port", "as_json", "prove", "bandwidth", "parts", "config"}
    resolved = resolve_tuned(
        {name: value for name, value in locals().items() if name not in own | {"own"}}, file=config
    )
    settings = resolved.settings
    topology = read_topology()
    measured = measure_bandwidth(topology) if bandwidth else []
    facts = None
    # The default model need not be here: then the plan is made without one.
    if resolved.origins["model"] != "default" or _is_here(settings.model):
        file = find_model(settings)
        found_parts = measure_parts(file.path, settings) if parts and model is not None else None
        needs = model_needs(file.path, settings)
        gpus = [gpu for gpu in read_gpus() if offloads([gpu], build_backends())]
        rate = max((each.best for each in measured), default=None)
        facts = ModelFacts(
            name=file.name,
            path=str(file.path),
            needs=needs,
            parts=found_parts,
            placement=placement_facts(file.path, settings, gpus, rate, _free_memory() if gpus else {}),
        )
    servers = _servers(port)
    diagnosis = diagnose(settings, facts, measured, servers, topology=topology, prove=prove)
    for check, found in zip(diagnosis.servers, read_stats(servers, settings.api_key), strict=True):
        if isinstance(found, str):
            check.unread = found
        else:
            check.findings = found.findings
            check.speeds = [each.speed for each in found.engines if each.speed is not None]
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(diagnosis), indent=2).decode())
    else:
        doctor_report.show(console_output.stdout(), diagnosis)
    if diagnosis.refused is not None:
        raise ConfigurationError(diagnosis.refused)
    wrong = any(library.state == "wrong" for library in diagnosis.libraries)
    if wrong or not all(server.as_planned for server in diagnosis.servers):
        raise typer.Exit(_DIFFERS)


def _is_here(model: str) -> bool:
    return Store().find(model) is not None


def _free_memory() -> dict[str, int]:
    """Bytes by the PCI address of each GPU whose driver reports them."""
    watch = DeviceWatch()
    watch.ask()
    watch.wait(_DRIVER_SECONDS)
    return {each.address: each.free for each in watch.latest() if each.address and each.free is not None}


def _servers(port: int | None) -> list[ServerState]:
    servers = find_servers()
    if port is None:
        return servers
    chosen = [server for server in servers if server.port == port]
    if not chosen:
        known = ", ".join(str(server.port) for server in servers) or "none"
        raise ConfigurationError(f"port is {port}, but no server of yours runs there; ports with one: {known}")
    return chosen
