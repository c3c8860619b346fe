"""The HTTP process's end of the control channel: orders to the supervisor, reports from it.

An order that the socket has no room for waits here, so the event loop never does.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

import structlog

from tailrace.errors import ProtocolError
from tailrace.serving.control import (
    FromServer,
    LoadModel,
    ModelReport,
    RemoveModel,
    ReportModels,
    ServeModel,
    UnloadModel,
    receive_reports,
    send,
)
from tailrace.serving.model_spec import ModelSpec

#: Seconds for which the supervisor may be busy.
_ANSWER_SECONDS = 20.0


class SupervisorLink:
    """See the module. ``on_report`` gets each report, and ``on_all`` the names of the reported models when all are."""

    def __init__(self, end: socket.socket) -> None:
        """``end``: this process's end of ``serving.control.control_channel``."""
        self.on_report: Callable[[ModelReport], None] | None = None
        self.on_all: Callable[[frozenset[str]], None] | None = None
        self._reported: set[str] = set()
        self._end = end
        self._unsent: deque[FromServer] = deque()
        self._has_all = asyncio.Event()
        self._writes = False  #: whether the loop reports when the socket has room
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Read reports, and ask for one of each model: this process may be the successor of one that died."""
        self._end.setblocking(False)
        asyncio.get_running_loop().add_reader(self._end.fileno(), self._read)
        self._send(ReportModels())

    async def all_reported(self) -> None:
        """Return when the supervisor has reported every model, or doesn't answer for long."""
        try:
            await asyncio.wait_for(self._has_all.wait(), _ANSWER_SECONDS)
        except TimeoutError:
            self._log.error("the supervisor doesn't say which models are loaded")

    def stop(self) -> None:
        """Read and send nothing more."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._end.fileno())
        loop.remove_writer(self._end.fileno())

    def load(self, spec: ModelSpec) -> None:
        """See ``LoadOrders``."""
        self._send(LoadModel(spec))

    def unload(self, name: str) -> None:
        """See ``LoadOrders``."""
        self._send(UnloadModel(name))

    def serve(self, spec: ModelSpec) -> None:
        """See ``LoadOrders``."""
        self._send(ServeModel(spec))

    def remove(self, name: str) -> None:
        """See ``LoadOrders``."""
        self._send(RemoveModel(name))

    def _send(self, message: FromServer) -> None:
        self._unsent.append(message)
        if not self._writes:
            self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._unsent:
            try:
                send(self._end, self._unsent[0])
            except BlockingIOError:
                if not self._writes:
                    self._writes = True
                    loop.add_writer(self._end.fileno(), self._flush)
                return
            except ProtocolError as error:
                self._refuse(self._unsent[0], str(error))
            except OSError as error:
                self._log.error("the supervisor can't be reached", error=str(error))
                self._unsent.clear()
                break
            self._unsent.popleft()
        if self._writes:
            self._writes = False
            loop.remove_writer(self._end.fileno())

    def _refuse(self, message: FromServer, reason: str) -> None:
        """The message can't be sent: a model whose load it orders has failed."""
        self._log.error("an order can't be sent", error=reason)
        if isinstance(message, LoadModel) and self.on_report is not None:
            report = ModelReport(name=message.spec.name, phase="failed", reason=f"its settings are too long: {reason}")
            asyncio.get_running_loop().call_soon(self.on_report, report)

    def _read(self) -> None:
        try:
            reports = receive_reports(self._end)
        except (ProtocolError, OSError) as error:
            self._log.error("a report can't be read", error=str(error))
            return
        if not reports and self._has_ended():
            # The supervisor is dying, and this process dies with it.
            asyncio.get_running_loop().remove_reader(self._end.fileno())
        for report in reports:
            if not report.name:
                self._end_of_reports()
                continue
            self._reported.add(report.name)
            if self.on_report is not None:
                self.on_report(report)

    def _end_of_reports(self) -> None:
        if self.on_all is not None:
            self.on_all(frozenset(self._reported))
        self._has_all.set()

    def _has_ended(self) -> bool:
        try:
            return not self._end.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
