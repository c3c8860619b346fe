"""``tailrace cluster``: several machines as one server. Ray is imported when a command runs, and not before."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import structlog
import typer

from tailrace.cli import console_output
from tailrace.cli.cluster_rows import changes, listening_urls, tables
from tailrace.cluster.config import ClusterConfig, read_config
from tailrace.cluster.ingress_place import listen
from tailrace.cluster.resources import replica_resources
from tailrace.cluster.status import ClusterStatus
from tailrace.errors import ConfigurationError, ModelError, TailraceError
from tailrace.models.model_reference import locate_model
from tailrace.observe import logs
from tailrace.server.start_check import check_http_settings

cluster = typer.Typer(help="Several machines as one server, by Ray.", no_args_is_help=True)

_Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="Head of a Ray cluster, HOST:PORT, or auto: the one of this machine."),
]
#: Seconds between two looks at what runs.
_LOOK_SECONDS = 0.5
_INSTALL = (
    "the commands of a cluster need Ray, which isn't installed: pip install 'tailrace[cluster]', "
    "or in a checkout .venv/bin/pip install -c constraints.txt -e '.[cluster]'"
)


class ClusterFailed(TailraceError):
    """The cluster's application can't be deployed, or Ray has gone."""


@cluster.command()
def serve(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The cluster's file (TOML).")],
    address: _Address = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Deploy and return; needs --address. See cluster status and stop.")
    ] = False,
) -> None:
    """Serve the models of CONFIG on all nodes: starts Ray on this machine, or joins the cluster at --address."""
    _need_ray()
    checked = read_config(config)
    logs.configure("cluster", level=checked.settings.log_level, form=checked.settings.log_format)
    check_http_settings(checked.settings)
    _warn_of_own_stores(checked)
    if detach and address is None:
        raise ConfigurationError(
            "--detach needs a Ray that outlives this command: start one with ray start --head, and add --address auto"
        )
    from tailrace.cluster.deployments import deployed, local_ray

    if address is None:
        _check_fits(checked)
        local_ray.start()
    else:
        local_ray.join(address)
    stop = _stop_signals()
    try:
        deployed.deploy(checked)
        if detach:
            typer.echo(f"{config} is deployed. tailrace cluster status shows what runs, tailrace cluster stop ends it.")
            return
        if _watch(stop) == "removed":
            typer.echo("the cluster has been stopped")
        elif address is None:
            typer.echo("stopping: running replies end first; Ctrl-C again ends them")
            _remove(stop)
        else:
            typer.echo("the cluster goes on; tailrace cluster stop ends it")
    finally:
        local_ray.leave()


@cluster.command()
def status(
    address: _Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show models, replicas and ingresses: where each is, its phase and its load."""
    _need_ray()
    from tailrace.cluster.deployments import deployed, local_ray

    local_ray.join(address or "auto")
    try:
        found = deployed.read_status()
    finally:
        local_ray.leave()
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    console = console_output.stdout()
    for table in tables(found):
        console.print(table)


@cluster.command()
def stop(address: _Address = None) -> None:
    """Drain and end all replicas and ingresses. Ray goes on, where tailrace cluster serve hasn't started it."""
    _need_ray()
    from tailrace.cluster.deployments import deployed, local_ray

    local_ray.join(address or "auto")
    try:
        if deployed.read_status().status == "absent":
            raise ClusterFailed("nothing of tailrace is deployed on this Ray cluster")
        deployed.remove()
        deployed.end_serve()
    finally:
        local_ray.leave()


def _need_ray() -> None:
    if not sys.platform.startswith("linux"):
        raise ConfigurationError("tailrace cluster needs Linux: its processes are tied to each other by the kernel")
    if importlib.util.find_spec("ray") is None:
        raise ConfigurationError(_INSTALL)


def _warn_of_own_stores(config: ClusterConfig) -> None:
    """Say where stored responses aren't the cluster's."""
    settings = config.settings
    several = sum(model.replicas.max_replicas for model in config.models) > 1
    if several and settings.responses_mb and settings.responses_store is None:
        structlog.get_logger().warning(
            "each node has its own stored responses, so previous_response_id works on the node that has stored it: "
            "set responses_store to a PostgreSQL database for all, or responses_mb to 0"
        )


def _check_fits(config: ClusterConfig) -> None:
    """Raise ConfigurationError where this machine, which is the whole cluster, can't have all replicas, or where the
    address is taken. Models that aren't here are named now, because replicas that fetch them show no progress.
    """
    listen(config.settings).close()
    cpus = len(os.sched_getaffinity(0))
    needed = 0
    for model in config.models:
        settings = config.settings_of(model)
        if settings.backend != "fake":
            try:
                locate_model(settings.model)
            except ModelError as error:
                raise ConfigurationError(f"[models.{model.name}]: {error}") from error
        needed += replica_resources(settings, model.replicas).cpus * model.replicas.min_replicas
    if needed > cpus:
        raise ConfigurationError(
            f"the replicas take {needed} CPUs, and this machine has {cpus}: set cores for each model, or join more "
            "machines with ray start, and name their head with --address"
        )


def _stop_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set. Ray has handlers of its own, which these replace."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _watch(stop: threading.Event) -> Literal["signal", "removed"]:
    """Print what changes until a signal, or until the application is removed; which of them. Raises ClusterFailed."""
    from tailrace.cluster.deployments import deployed

    before = ClusterStatus(status="deploying")
    announced = False
    while not stop.is_set():
        now = deployed.read_status()
        for line in changes(before, now):
            typer.echo(line)
        if now.status == "failed":
            raise ClusterFailed(f"the cluster can't be deployed: {now.message}")
        if now.status == "absent" and before.status != "deploying":
            return "removed"
        if not announced and now.status == "running" and (urls := listening_urls(now)):
            announced = True
            typer.echo(f"tailrace cluster listens on {', '.join(urls)}")
        before = now
        stop.wait(_LOOK_SECONDS)
    return "signal"


def _remove(stop: threading.Event) -> None:
    """Remove the application; another signal doesn't wait for running replies."""
    from tailrace.cluster.deployments import deployed

    stop.clear()
    removal = threading.Thread(target=deployed.remove, daemon=True)
    removal.start()
    while removal.is_alive() and not stop.is_set():
        removal.join(_LOOK_SECONDS)
