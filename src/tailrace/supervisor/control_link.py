"""The supervisor's side of the control channel: orders come in, and reports go out without ever blocking.

A report that doesn't fit into the socket is made again when there is space. By then it has the newest phase, so a slow
HTTP process costs one pending report a model at most.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from tailrace.errors import ProtocolError
from tailrace.serving.control import FromServer, ModelReport, control_channel, receive_order, receive_reports, send
from tailrace.supervisor.signal_queue import SignalQueue

#: Orders that are taken at once.
_MAX_ORDERS = 64


class ControlLink:
    """See the module. Both ends live as long as the supervisor."""

    def __init__(self, report: Callable[[str], ModelReport]) -> None:
        """``report``: makes the report of the model with this name."""
        self._server, self._own = control_channel()
        self._report = report
        self._pending: dict[str, None] = {}  #: names of models with news, in their order
        self._signals: SignalQueue | None = None

    @property
    def server_fd(self) -> int:
        """The end that HTTP processes inherit."""
        return self._server.fileno()

    def watch(self, signals: SignalQueue) -> None:
        """Have orders end the supervisor's sleep."""
        self._signals = signals
        signals.watch(self._own.fileno())

    def ignore(self) -> None:
        """Orders don't count any more: the server stops."""
        if self._signals is not None:
            self._signals.ignore(self._own.fileno())
            self._signals = None

    def forget_reports(self) -> None:
        """Drop what a dead HTTP process hasn't read; the next one asks for all."""
        self._pending.clear()
        receive_reports(self._server)
        self._wait_for_space()

    def orders(self) -> list[FromServer]:
        """The orders that have come, some at a time: others wake the supervisor again."""
        found: list[FromServer] = []
        for _ in range(_MAX_ORDERS):
            try:
                order = receive_order(self._own)
            except ProtocolError as error:
                structlog.get_logger().error("an order can't be read", error=str(error))
                continue
            except OSError as error:
                structlog.get_logger().error("the control channel broke", error=str(error))
                break
            if order is None:
                break
            found.append(order)
        return found

    def announce(self, name: str) -> None:
        """Report the model ``name``, now or when the HTTP process reads."""
        self._pending[name] = None
        self.send_pending()

    def send_pending(self) -> None:
        """Send the reports that wait, as far as there is space."""
        if not self._pending:
            return
        while self._pending:
            name = next(iter(self._pending))
            try:
                send(self._own, self._report(name))
            except OSError:
                break  # Full: the rest is sent when the HTTP process has read.
            except ProtocolError as error:
                structlog.get_logger().error("a model can't be reported", model=name, error=str(error))
            del self._pending[name]
        self._wait_for_space()

    def _wait_for_space(self) -> None:
        if self._signals is not None:
            self._signals.watch(self._own.fileno(), writable=bool(self._pending))

    def close(self) -> None:
        """Close both ends."""
        for end in (self._server, self._own):
            end.close()
