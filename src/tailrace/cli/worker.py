"""``tailrace worker``: this machine's devices for engines on other machines."""

from __future__ import annotations

from typing import Annotated, NoReturn

import structlog
import typer

from tailrace.cli import console_output
from tailrace.folders import cache_folder
from tailrace.machine.planner import make_plan
from tailrace.machine.topology import read_topology
from tailrace.observe import logs
from tailrace.settings import resolve
from tailrace.worker.address import free_address, parse_listen
from tailrace.worker.service import WorkerOptions, run_worker


def worker(
    listen: Annotated[
        str, typer.Option(help="Address and port; the next port is taken, too. Port 0 picks free ones.")
    ] = "127.0.0.1:50052",
    allow_private: Annotated[
        bool, typer.Option(help="Listen on a private network, where every machine may use this one.")
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", "-t", help="Threads that compute [planned].")] = None,
    memory_mb: Annotated[int, typer.Option(min=0, help="Memory to offer of a CPU, in MB; 0: all that is free.")] = 0,
    cache_mb: Annotated[
        int, typer.Option(min=0, help="Disk for tensors, so that a model isn't sent twice, in MB; 0: none.")
    ] = 16_384,
    kernels: Annotated[
        str | None, typer.Option(help="Kernels of our own: on, avx512 (without AMX), avx2, neon (ARM) or off [on].")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json [console].")] = None,
) -> NoReturn:
    """Offer this machine's GPUs, or its CPU, to `tailrace serve --devices` on another machine.

    Every client that reaches the worker may use it. See docs/devices.md for tunnels.
    """
    address = parse_listen(listen, allow_private=allow_private)
    settings = resolve({"threads": threads, "kernels": kernels, "log_format": log_format}).settings
    logs.configure("worker", level=settings.log_level, form=settings.log_format)
    if not address.is_loopback:
        structlog.get_logger().warning(
            "every machine of this network may use the worker, and all of it goes over the network unencrypted",
            listen=str(address),
        )
    options = WorkerOptions(
        address=free_address(address),
        pool=make_plan(read_topology(), settings).replicas[0].decode,
        kernels=settings.kernels,
        memory=memory_mb * 1_000_000,
        cache_folder=cache_folder() / "worker",
        cache_bytes=cache_mb * 1_000_000,
    )
    run_worker(options, lambda line: console_output.stdout().print(line, highlight=False, soft_wrap=True))
