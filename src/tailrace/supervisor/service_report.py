"""What the service manager hears of the server: when it is ready, when it has reloaded, and its state in words."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence

import structlog

from tailrace.serving.model_spec import ModelSpec
from tailrace.supervisor.child_process import ChildProcess
from tailrace.supervisor.engine_group import EngineGroup
from tailrace.supervisor.service_manager import ServiceManager

#: Reloads of an HTTP process that has read its files at its start; no count is equal to it.
_READ_AT_START = -1


class ServiceReport:
    """See the module. ``server``: the HTTP process. ``models``: all that are served now."""

    def __init__(
        self,
        manager: ServiceManager,
        server: ChildProcess,
        models: Callable[[], Sequence[ModelSpec]],
        port: int,
        *,
        alone: bool,
    ) -> None:
        self._manager = manager
        self._server = server
        self._models = models
        self._port = port
        self._alone = alone  #: one model is served, and the server ends with it
        self._was_ready = False
        self._reloads: int | None = None  #: the HTTP process's count when a reload began; None: there is none

    def reload(self) -> None:
        """Have the HTTP process read its files again."""
        structlog.get_logger().info("reloading")
        self._manager.reloading()
        # A process that isn't there reads them at its start.
        self._reloads = self._server.page.reloads if self._server.page is not None else _READ_AT_START
        if self._server.is_running:
            self._server.send(signal.SIGHUP)

    def on_server_death(self) -> None:
        """The next HTTP process reads its files."""
        self._reloads = None if self._reloads is None else _READ_AT_START

    def look(self, groups: Iterable[EngineGroup], *, announced: bool) -> None:
        """Report what is new. ``announced``: whether the server's address has been printed."""
        manager, server = self._manager, self._server
        if not manager.is_there:
            return
        groups = tuple(groups)
        models = self._models()
        waiting = [child.name for child in (server, *self._needed(groups)) if not child.serves]
        if not waiting and announced:
            text = self._text(groups, models)
            if not self._was_ready:
                self._was_ready = True
                manager.ready(text)
            if self._reloads is not None and server.page is not None and server.page.reloads != self._reloads:
                self._reloads = None
                manager.ready(text)
            manager.status(text)
        else:
            manager.status(f"waiting for: {', '.join(waiting)}")
            if not self._was_ready:
                manager.extend_start()

    def _needed(self, groups: Sequence[EngineGroup]) -> list[ChildProcess]:
        """The engines without which the server isn't ready: those of an only model. Of several, each loads alone."""
        return [engine for group in groups for engine in group.engines] if self._alone else []

    def _text(self, groups: Sequence[EngineGroup], models: Sequence[ModelSpec]) -> str:
        if self._alone:
            return f"serving {models[0].name} on port {self._port}"
        loaded = sum(group.phase == "serving" for group in groups)
        return f"serving {len(models)} models on port {self._port}, {loaded} loaded"
