"""The workers of one engine: it waits until they can be used, and ends the process when one of them is lost.

llama.cpp can't go on without a worker. One that dies makes it abort; one that hangs would make it wait forever.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tailrace.engine.devices.device_list import parse_devices
from tailrace.engine.devices.worker_link import WorkerLink, WorkerUnavailableError
from tailrace.engine.native_libs.ggml_headers import binding_version
from tailrace.errors import ConfigurationError
from tailrace.machine.thread_name import name_thread
from tailrace.observe import log_writer
from tailrace.progress_page import ProgressPage
from tailrace.settings import Settings
from tailrace.worker_status import WorkerStatus

#: Exit status of an engine whose worker is lost: the next one waits for it.
EXIT_WORKER_LOST = 71
#: Seconds for which the first engine of a server waits. A wrong address should be told soon.
_FIRST_SECONDS = 10.0
#: Seconds between two tries, and between two lines in the log.
_RETRY_SECONDS, _LOG_SECONDS = 0.5, 30.0


class WorkerWatch:
    """See the module."""

    def __init__(self, endpoints: Sequence[str], version: str) -> None:
        """``version``: of this process's llama-cpp-python."""
        self._endpoints = endpoints
        self._version = version
        self.links: list[WorkerLink] = []
        self.statuses: dict[str, WorkerStatus] = {}  #: of each worker, by its address, when it was free

    def connect(self, page: ProgressPage, *, first: bool) -> None:
        """Wait until all workers are free. ``first``: the server has had no engine yet, so it waits not for long.

        Raises ConfigurationError for a worker that can't be used, and where the wait is over.
        """
        for endpoint in self._endpoints:
            link = self._wait_for(endpoint, page, first=first)
            self.links.append(link)
            self.statuses[endpoint] = link.status
        page.waits_for_worker = False

    def _wait_for(self, endpoint: str, page: ProgressPage, *, first: bool) -> WorkerLink:
        begun, told = time.monotonic(), -_LOG_SECONDS
        while True:
            try:
                link = self._free_worker(endpoint)
                page.message = ""
                return link
            except WorkerUnavailableError as error:
                now = time.monotonic()
                if first and now - begun >= _FIRST_SECONDS:
                    raise ConfigurationError(str(error)) from error
                page.message = f"waits for a worker: {error}"
                page.waits_for_worker = True
                page.beat(now)
                if now - told >= _LOG_SECONDS:
                    told = now
                    structlog.get_logger().warning("the engine waits for a worker", reason=str(error))
                time.sleep(_RETRY_SECONDS)

    def _free_worker(self, endpoint: str) -> WorkerLink:
        link = WorkerLink(endpoint)
        status = link.status
        if status.llama_cpp != self._version:
            link.close()
            raise ConfigurationError(
                f"the worker at {endpoint} has llama-cpp-python {status.llama_cpp} and this machine {self._version}: "
                "both must have the same; install the same tailrace on both"
            )
        if status.client is not None:
            link.close()
            raise WorkerUnavailableError(
                f"the worker at {endpoint} is in use by {status.client}, and it has one engine at a time"
            )
        return link

    def close(self) -> None:
        """Let go of workers that aren't watched."""
        for link in self.links:
            link.close()

    def watch(self, lost: Callable[[str], None]) -> None:
        """Listen to each worker from now on. ``lost`` is called with the reason before the process ends."""
        for link in self.links:
            thread = threading.Thread(target=_listen, args=(link, lost), name="tailrace-worker", daemon=True)
            thread.start()


def _listen(link: WorkerLink, lost: Callable[[str], None]) -> None:
    name_thread("tailrace-worker")
    try:
        while True:
            link.next_status()
    except WorkerUnavailableError as error:
        lost(str(error))
        structlog.get_logger().critical("a worker is lost: the engine ends, and waits for it", reason=str(error))
        log_writer.standard_error().flush_last()
        os._exit(EXIT_WORKER_LOST)


def connect_workers(settings: Settings, page: ProgressPage, *, first: bool) -> WorkerWatch | None:
    """Wait for the workers of the settings, and watch them from now on. None where the settings name no devices.

    ``first`` and errors as in ``WorkerWatch.connect``.
    """
    if settings.devices is None:
        if settings.placement is not None:
            raise ConfigurationError("placement has rules for devices, and devices isn't set: set --devices")
        return None
    watch = WorkerWatch(parse_devices(settings.devices).workers, binding_version())
    watch.connect(page, first=first)

    def lost(reason: str) -> None:
        page.message = reason

    watch.watch(lost)
    return watch
