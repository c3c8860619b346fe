"""The workers of one engine: it waits until they can be used, and ends the process when one of them is lost.

llama.cpp can't go on without a worker. One that dies makes it abort; one that hangs would make it wait forever.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence

import structlog

from tailrace.engine.devices.open_worker import open_worker
from tailrace.engine.devices.rpc_greeting import check_rpc_port
from tailrace.engine.devices.worker_errors import WorkerUnavailableError, WorkerVersionError
from tailrace.engine.devices.worker_link import WorkerLink
from tailrace.engine.native_libs.ggml_headers import binding_version
from tailrace.errors import ConfigurationError
from tailrace.observe import log_writer
from tailrace.own_process.thread_name import name_thread
from tailrace.serving.device_list import parse_devices
from tailrace.settings import Settings
from tailrace.shared_memory.progress_page import ProgressPage
from tailrace.worker_protocol.status import WorkerStatus

#: Exit status of an engine whose worker is lost: the next one waits for it.
EXIT_WORKER_LOST = 71
#: Seconds for which the first engine of a server waits. A wrong address should be reported soon.
_FIRST_SECONDS = 10.0
#: Seconds between two tries, and between two lines in the log.
_RETRY_SECONDS, _LOG_SECONDS = 0.5, 30.0


class WorkerWatch:
    """The workers that this process has claimed. See the module."""

    def __init__(self, version: str) -> None:
        """``version``: of this process's llama-cpp-python."""
        self._version = version
        self._engine = f"{socket.gethostname()}, process {os.getpid()} ({secrets.token_hex(4)})"
        self.links: list[WorkerLink] = []

    @property
    def statuses(self) -> Mapping[str, WorkerStatus]:
        """The last report of each worker, by its address."""
        return {link.endpoint: link.status for link in self.links}

    def connect(self, endpoints: Sequence[str], page: ProgressPage, *, first: bool) -> list[WorkerLink]:
        """Wait until all workers are free, and claim them. Returns those that weren't claimed before. ``first``: the
        server has had no engine yet, so the wait is short.

        Raises ConfigurationError for a worker that can't be used, and where the wait is over.
        """
        fresh = [endpoint for endpoint in endpoints if endpoint not in self.statuses]
        begun, logged_at = time.monotonic(), -_LOG_SECONDS
        while True:
            try:
                links = self._claim_all(fresh)
                break
            except WorkerUnavailableError as error:
                now = time.monotonic()
                if first and now - begun >= _FIRST_SECONDS:
                    page.message = ""  # The error says the same.
                    raise ConfigurationError(str(error)) from error
                page.message = f"waits for a worker: {error}"
                page.waits_for_worker = True
                page.beat(now)
                if now - logged_at >= _LOG_SECONDS:
                    logged_at = now
                    structlog.get_logger().warning("the engine waits for a worker", reason=str(error))
                # Two engines that want the same workers come one after the other in time.
                time.sleep(_RETRY_SECONDS * random.uniform(1.0, 2.0))
        if fresh:
            page.message, page.waits_for_worker = "", False
        self.links += links
        return links

    def _claim_all(self, endpoints: Sequence[str]) -> list[WorkerLink]:
        """Claim all, or none: two engines that each wait for the other's worker would wait forever."""
        links: list[WorkerLink] = []
        try:
            for endpoint in endpoints:
                link = open_worker(endpoint, self._version, (*self.links, *links))
                links.append(link)
                link.claim(self._engine)
                check_rpc_port(link.address, link.port)
        except BaseException:
            for link in links:
                link.close()
            raise
        return links

    def close(self) -> None:
        """End the claims. Only for workers to which no thread listens."""
        for link in self.links:
            link.close()
        self.links.clear()


def _listen(link: WorkerLink, page: ProgressPage) -> None:
    """Renew the claim with each report. End the process when the worker is lost."""
    name_thread("tailrace-worker")
    try:
        while True:
            link.next_status()
            link.check_claim()
    except (WorkerUnavailableError, WorkerVersionError) as error:
        page.message = str(error)
        structlog.get_logger().critical("a worker is lost: the engine ends, and waits for it", reason=str(error))
        log_writer.standard_error().flush_last()
        os._exit(EXIT_WORKER_LOST)


_watch: WorkerWatch | None = None  #: of this process


def connect_workers(settings: Settings, page: ProgressPage, *, first: bool) -> WorkerWatch | None:
    """Wait for the workers of the settings, and watch them from now on. None where the settings name no devices. A
    second model of this process may use the same workers.

    Those of a draft model are claimed with its model's: two servers that each wait for a worker of the other one would
    wait forever. ``first`` and errors as in ``WorkerWatch.connect``.
    """
    global _watch
    if settings.devices is None:
        return None
    _watch = _watch or WorkerWatch(binding_version())
    endpoints = list(parse_devices(settings.devices).workers)
    if settings.speculate == "draft" and settings.draft_devices is not None:
        endpoints += parse_devices(settings.draft_devices).workers
    for link in _watch.connect(list(dict.fromkeys(endpoints)), page, first=first):
        threading.Thread(target=_listen, args=(link, page), name="tailrace-worker", daemon=True).start()
    return _watch
