"""Runs a worker in this process until a signal ends it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import structlog

from tailrace.engine.kernels import loader
from tailrace.errors import ConfigurationError, ModelError
from tailrace.machine.openmp_spin import set_spin_count
from tailrace.machine.plan import PoolPlan
from tailrace.machine.plan_wording import memory_size
from tailrace.worker.address import ListenAddress
from tailrace.worker.client import cut_client
from tailrace.worker.memory_limit import MemoryLimit
from tailrace.worker.status_server import StatusServer
from tailrace.worker.tensor_cache import TensorCache
from tailrace.worker_protocol.device_speed import DeviceSpeed
from tailrace.worker_protocol.status import STATUS_PORT_OFFSET

#: Seconds between two looks at the folder of tensors.
_TEND_SECONDS = 1.0
#: What llama.cpp says of a connection that its client has closed.
_CLOSED = "recv failed (bytes_recv=0,"
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
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    set_spin_count(options.pool.poll)
    loader.choose(options.kernels)
    # It loads llama.cpp, after the kernels and the spin count.
    from tailrace.engine.backends.llama import devices
    from tailrace.engine.backends.llama.model_loader import redirect_log
    from tailrace.worker.reports import Reports

    log = structlog.get_logger()

    def log_llama(level: str, line: str) -> None:
        # An engine that ends closes its connection, which llama.cpp calls an error.
        level = "debug" if line.startswith(_CLOSED) else level
        getattr(log, level)(line, source="llama.cpp")

    redirect_log(log_llama)
    offered = devices.offered_devices()
    if options.memory and offered != [devices.cpu_device()]:
        raise ConfigurationError("--memory-mb limits a CPU's memory, and this worker offers GPUs: leave it out")
    folder = _CareOfFolder(options)
    status = _status_server(options.address)
    repacks = loader.status() == "on" and offered == [devices.cpu_device()]
    speeds = [_speed(device, options.pool.threads, repacks=repacks) for device in offered]
    # Measuring has allocated memory, which doesn't count.
    limit = MemoryLimit(options.memory) if options.memory else None
    reports = Reports(options.address.port, options.pool.threads, offered, speeds, limit)
    for each in reports.now(None).devices:
        speed = {} if each.speed is None else {"reads": f"{_fastest(each.speed) / 1e9:.0f} GB/s"}
        log.info("offers", device=each.name, description=each.description, free=memory_size(each.free), **speed)
    server = _serve(options, offered)
    announce(f"tailrace worker listens on {options.address}, and reports on port {status.port}")
    while server.is_alive():
        status.beat(lambda: reports.now(status.holder))
        folder.tend()
    raise ConfigurationError(_NO_PORT.format(options.address))


def _status_server(address: ListenAddress) -> StatusServer:
    """Listen on the status port. Raises ConfigurationError."""

    def released() -> None:
        # Usually the engine has closed it itself. One that was cut off, or hangs, hasn't.
        if (cut := cut_client(address.port)) is not None:
            structlog.get_logger().info("the engine is gone: its connection is closed", client=cut)

    port = address.port + STATUS_PORT_OFFSET
    try:
        return StatusServer(address.host, port, released)
    except OSError as error:
        raise ConfigurationError(f"the worker can't report on port {port}: {error}") from error


def _serve(options: WorkerOptions, offered: Sequence[int]) -> threading.Thread:
    """The thread in which llama.cpp serves the devices, once it listens. Raises ConfigurationError."""
    from tailrace.engine.backends.llama.worker_server import serve_devices

    _silence_llama()
    server = threading.Thread(
        target=serve_devices,
        args=(str(options.address), offered),
        kwargs={"threads": options.pool.threads, "cache": str(options.cache_folder) if options.cache_bytes else None},
        name="tailrace-rpc",
        daemon=True,
    )
    server.start()
    _wait_until_it_listens(server, options.address)
    return server


class _CareOfFolder:
    """Keeps the folder of tensors in order, about once a second."""

    def __init__(self, options: WorkerOptions) -> None:
        """Raises ConfigurationError where the folder can't be used."""
        try:
            self._cache = TensorCache(options.cache_folder, options.cache_bytes) if options.cache_bytes else None
        except OSError as error:
            raise ConfigurationError(
                f"the worker can't keep tensors in {options.cache_folder}: {error}. --cache-mb 0 keeps none"
            ) from error
        self._due = 0.0
        self._failure = ""

    def tend(self) -> None:
        """Tend it if that is due. Where it can't be done, the log says so once."""
        if self._cache is None or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _TEND_SECONDS
        before, self._failure = self._failure, ""
        try:
            self._cache.tend()
        except OSError as error:
            self._failure = str(error)
            if self._failure != before:
                structlog.get_logger().warning(
                    "the folder of tensors can't be kept in order", folder=str(self._cache.folder), error=self._failure
                )


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
