"""Counts the bytes of the connection to a worker, by what the engine did meanwhile.

llama.cpp makes the connection and counts nothing. The kernel counts each connection's bytes, so they are read from it
before and after each step: 5 µs, beside a step's journey over the network.
"""

from __future__ import annotations

import contextlib
import socket

from tailrace.device_figures.tcp_connection import Connection, TcpReading, find_connections, read_tcp
from tailrace.protocol import LinkFigures, LinkTraffic, LinkUse

_NOTHING = TcpReading(sent=0, received=0, sending_seconds=0.0, round_trip=0.0, retransmits=0)


class LinkMeter:
    """The link to one worker. Everything before the constructor's end is of loading the model."""

    def __init__(self, endpoint: str) -> None:
        """``endpoint``: the worker's ``HOST:PORT``."""
        host, _, port = endpoint.rpartition(":")
        self._addresses = {(host, int(port))}
        with contextlib.suppress(OSError):  # A name that isn't known any more has no connection either.
            found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
            self._addresses |= {(str(address[0]), int(address[1])) for *_, address in found}
        self._connection: Connection | None = None
        self._last = _NOTHING
        self._traffic: dict[LinkUse, LinkTraffic] = {}
        self._sending_seconds = 0.0  #: of all connections
        self._retransmits = 0
        self.count("load")

    def count(self, use: LinkUse, *, steps: int = 0) -> None:
        """The bytes since the last call were for ``use``, in so many ``steps``."""
        reading = self._read()
        if reading is None:
            return
        traffic, last = self._traffic.setdefault(use, LinkTraffic()), self._last
        traffic.steps += steps
        traffic.sent += reading.sent - last.sent
        traffic.received += reading.received - last.received
        self._sending_seconds += reading.sending_seconds - last.sending_seconds
        self._retransmits += reading.retransmits - last.retransmits
        self._last = reading

    @property
    def figures(self) -> LinkFigures | None:
        """The totals so far; None where the system doesn't count."""
        if not self._traffic:
            return None
        return LinkFigures(
            traffic=self._traffic,
            sending_seconds=self._sending_seconds,
            retransmits=self._retransmits,
            round_trip=self._last.round_trip,
        )

    def _read(self) -> TcpReading | None:
        """The connection's totals; of a new connection, where llama.cpp has made another one."""
        if self._connection is not None and (reading := read_tcp(self._connection)) is not None:
            return reading
        for connection in find_connections():
            if connection.there in self._addresses and (reading := read_tcp(connection)) is not None:
                self._connection, self._last = connection, _NOTHING
                return reading
        return None
