"""What the server records of itself for ``tailrace ps``, ``stop``, ``logs`` and ``doctor``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

import msgspec

from tailrace.machine.process_start import start_ticks
from tailrace.machine.running_servers import ServerRecord, ServerState
from tailrace.serving.model_spec import ModelSpec
from tailrace.settings import Settings
from tailrace.supervisor.engine_group import EngineGroup


class StateReport:
    """See the module. ``address``: host and port; ``log``: the log file, where the server is in the background."""

    def __init__(
        self, settings: Settings, address: tuple[str, int], http_cpus: tuple[int, ...], log: str | None
    ) -> None:
        self._record = ServerRecord()
        host, port = address
        self._state = ServerState(
            models=(),
            loaded=(),
            host=host,
            port=port,
            tls=settings.tls_cert is not None,
            supervisor=os.getpid(),
            start_ticks=start_ticks(os.getpid()),
            started=time.time(),
            http=None,
            http_cpus=http_cpus,
            log=log,
        )

    def write(
        self, models: Iterable[ModelSpec], groups: Iterable[EngineGroup], http: int | None, *, ready: bool
    ) -> None:
        """Record the state. ``http``: the HTTP process; ``ready``: whether the server has been ready once."""
        self._state = msgspec.structs.replace(
            self._state,
            models=tuple(spec.name for spec in models),
            loaded=tuple(group.state for group in groups if group.is_wanted),
            http=http,
            ready=ready,
        )
        self._record.write(self._state)

    def remove(self) -> None:
        """Delete the record."""
        self._record.remove()
