"""A worker's reports of itself: its devices and their free memory, the engine that uses it, its figures.

Its import loads llama.cpp.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import structlog

from tailrace.device_figures.device_watch import DeviceWatch
from tailrace.engine.backends.llama import devices
from tailrace.engine.kernels import loader
from tailrace.engine.kernels.operation_counts import operation_counts
from tailrace.engine.kernels.served_weights import ServedWeights
from tailrace.engine.native_libs.ggml_headers import binding_version
from tailrace.worker.client import find_client
from tailrace.worker.memory_limit import MemoryLimit, repacking_capacity
from tailrace.worker_protocol.device_speed import DeviceSpeed
from tailrace.worker_protocol.status import PROTOCOL, OfferedDevice, WorkerStatus


class Reports:
    """Makes the reports. There is one in a process: it has the weights repacked that engines send."""

    def __init__(
        self,
        port: int,
        threads: int,
        offered: Sequence[int],
        speeds: Sequence[DeviceSpeed | None],
        limit: MemoryLimit | None,
    ) -> None:
        """``port``: on which engines connect. ``threads``: of a CPU. ``offered``: llama.cpp's handles of the devices,
        with their ``speeds``. ``limit``: of the CPU's memory; None: all that is free is offered.
        """
        self._port = port
        self._threads = threads
        self._offered = offered
        self._speeds = speeds
        self._limit = limit
        self._served = ServedWeights(lambda: repacking_capacity(limit))
        self._figures = DeviceWatch()
        self._version, self._identity = binding_version(), secrets.token_hex(8)
        self._client: str | None = None  #: in the last report

    def now(self, holder: str | None) -> WorkerStatus:
        """The worker now. ``holder``: the engine that has claimed it. The log says when an engine comes and goes."""
        self._figures.ask()
        client = find_client(self._port)
        address = None if client is None else client.address
        if address != self._client:
            event = "engine connected" if address else "engine disconnected"
            structlog.get_logger().info(event, client=address or self._client)
            self._client = address
        return WorkerStatus(
            llama_cpp=self._version,
            threads=self._threads,
            devices=tuple(map(self._device, self._offered, self._speeds)),
            repacked_bytes=self._served.bytes,
            operations=operation_counts(),
            identity=self._identity,
            client=address,
            hardware=self._figures.latest(),
            sending_seconds=None if client is None else client.sending_seconds,
            holder=holder,
            reads_mask_runs=loader.status() == "on",
            protocol=PROTOCOL,
        )

    def _device(self, device: int, speed: DeviceSpeed | None) -> OfferedDevice:
        memory = devices.device_memory(device)
        free = memory.free if self._limit is None else min(memory.free, self._limit.free)
        return OfferedDevice(devices.device_name(device), devices.device_description(device), free, memory.total, speed)
