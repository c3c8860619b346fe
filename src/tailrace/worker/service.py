"""Runs a worker in this process until it is told to end."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from tailrace.device_figures.device_watch import DeviceWatch
from tailrace.engine.kernels import loader
from tailrace.engine.native_libs.ggml_headers import binding_version
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.openmp_spin import set_spin_count
from tailrace.machine.plan import PoolPlan
from tailrace.machine.plan_wording import memory_size
from tailrace.worker.address import ListenAddress
from tailrace.worker.client import cut_client, find_client
from tailrace.worker.memory_limit import MemoryLimit, repacking_capacity
from tailrace.worker.status_server import StatusServer
from tailrace.worker.tensor_cache import TensorCache
from tailrace.worker_protocol.device_speed import DeviceSpeed
from tailrace.worker_protocol.status import PROTOCOL, STATUS_PORT_OFFSET, OfferedDevice, WorkerStatus

#: Seconds between two looks at the folder of tensors.
_TEND_SECONDS = 1.0
_NO_PORT = "llama.cpp can't listen on {}: another process has taken the port"


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """How a worker runs."""

    address: ListenAddress
    pool: PoolPlan  #: its threads
    kernels: str  #: the setting
    memory: int  #: bytes of the CPU's memory that are offered; 0: all that is free
    cache_folder: Path
    cache_bytes: int  #: of tensors that were sent; 0: none are kept


def run_worker(options: WorkerOptions, announce: Callable[[str], None]) -> NoReturn:
    """Serve until SIGTERM or SIGINT, which end the process at once. ``announce`` gets the line that says where.

    Raises ConfigurationError where the worker can't listen, or can't write to its folder.
    """
    log = structlog.get_logger()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    set_spin_count(options.pool.poll)
    loader.choose(options.kernels)
    # It loads llama.cpp, after the kernels and the spin count.
    from tailrace.engine.backends.llama import devices
    from tailrace.engine.backends.llama.model_loader import redirect_log
    from tailrace.engine.backends.llama.worker_server import serve_devices
    from tailrace.engine.kernels.operation_counts import operation_counts
    from tailrace.engine.kernels.served_weights import ServedWeights

    redirect_log(lambda level, line: getattr(log, level)(line, source="llama.cpp"))
    offered = devices.offered_devices()
    if options.memory and offered != [devices.cpu_device()]:
        raise ConfigurationError("--memory-mb limits a CPU's memory, and this worker offers GPUs: leave it out")
    address = options.address
    try:
        cache = TensorCache(options.cache_folder, options.cache_bytes) if options.cache_bytes else None
    except OSError as error:
        raise ConfigurationError(
            f"the worker can't keep tensors in {options.cache_folder}: {error}. --cache-mb 0 keeps none"
        ) from error
    status_port = address.port + STATUS_PORT_OFFSET

    def released() -> None:
        # Usually the engine has closed it itself. One that was cut off, or hangs, hasn't.
        if (cut := cut_client(address.port)) is not None:
            log.info("the engine is gone: its connection is closed", client=cut)

    try:
        status = StatusServer(address.host, status_port, released)
    except OSError as error:
        raise ConfigurationError(f"the worker can't report on port {status_port}: {error}") from error
    version, identity = binding_version(), secrets.token_hex(8)
    figures = DeviceWatch()
    repacks = loader.status() == "on" and offered == [devices.cpu_device()]
    speeds = [_speed(device, options.pool.threads, repacks=repacks) for device in offered]
    # Measuring has allocated memory, which doesn't count.
    limit = MemoryLimit(options.memory) if options.memory else None
    served = ServedWeights(lambda: repacking_capacity(limit))

    def report() -> WorkerStatus:
        found = []
        for device, speed in zip(offered, speeds, strict=True):
            memory = devices.device_memory(device)
            free = memory.free if limit is None else min(memory.free, limit.free)
            name, description = devices.device_name(device), devices.device_description(device)
            found.append(OfferedDevice(name, description, free, memory.total, speed))
        figures.ask()
        client = find_client(address.port)
        return WorkerStatus(
            llama_cpp=version,
            threads=options.pool.threads,
            devices=tuple(found),
            repacked_bytes=served.bytes,
            operations=operation_counts(),
            identity=identity,
            client=None if client is None else client.address,
            hardware=figures.latest(),
            sending_seconds=None if client is None else client.sending_seconds,
            holder=status.holder,
            protocol=PROTOCOL,
        )

    for each in report().devices:
        speed = {} if each.speed is None else {"reads": f"{_fastest(each.speed) / 1e9:.0f} GB/s"}
        log.info("offers", device=each.name, description=each.description, free=memory_size(each.free), **speed)
    _silence_llama()
    server = threading.Thread(
        target=serve_devices,
        args=(str(address), offered),
        kwargs={"threads": options.pool.threads, "cache": None if cache is None else str(cache.folder)},
        name="tailrace-rpc",
        daemon=True,
    )
    server.start()
    _wait_until_it_listens(server, address)
    announce(f"tailrace worker listens on {address}, and reports on port {status_port}")
    client, tend_at = None, 0.0

    def seen() -> WorkerStatus:
        nonlocal client
        found = report()
        if found.client != client:
            log.info("engine connected" if found.client else "engine disconnected", client=found.client or client)
            client = found.client
        return found

    failure = ""
    while server.is_alive():
        status.beat(seen)
        if cache is not None and time.monotonic() >= tend_at:
            tend_at = time.monotonic() + _TEND_SECONDS
            before, failure = failure, _tend(cache)
            if failure not in ("", before):
                log.warning("the folder of tensors can't be kept in order", folder=str(cache.folder), error=failure)
    raise ConfigurationError(_NO_PORT.format(address))


def _tend(cache: TensorCache) -> str:
    """Keep the folder in order. The reason where it can't be."""
    try:
        cache.tend()
    except OSError as error:
        return str(error)
    return ""


def _fastest(speed: DeviceSpeed) -> float:
    """Bytes of weights a second, in the format that is read fastest."""
    return max(each.bandwidth for each in speed.products.values())


def _speed(device: int, threads: int, *, repacks: bool) -> DeviceSpeed | None:
    """How fast the device computes; None where it can't be measured: then servers assume it."""
    from tailrace.engine.backends.llama.device_speeds import device_speed
    from tailrace.engine.backends.llama.measure_device import COMMON_FORMATS

    try:
        return device_speed(device, threads=threads, formats=COMMON_FORMATS, experts=COMMON_FORMATS, repacks=repacks)
    except ModelError as error:
        structlog.get_logger().warning("the speed of a device isn't known", reason=str(error))
        return None


def _silence_llama() -> None:
    """Have Python write to another descriptor of standard output: llama.cpp writes of its clients to the first one, in
    lines of another form.
    """
    sys.stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _wait_until_it_listens(server: threading.Thread, address: ListenAddress) -> None:
    """Connect once: an engine may come as soon as the worker has reported itself. Raises ConfigurationError."""
    while server.is_alive():
        try:
            socket.create_connection((address.host, address.port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.01)
    raise ConfigurationError(_NO_PORT.format(address))


def _end(number: int, frame: object) -> NoReturn:
    """llama.cpp's threads can't be left in an orderly way, and nothing has to be saved."""
    os._exit(0)
