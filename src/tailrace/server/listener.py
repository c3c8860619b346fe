"""Accepts connections: as many as there may be, a few at a time, and not while no file can be opened.

uvloop's own server accepts all that have come before any of them counts, and ends when it may open no further file.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

from tailrace.errors import InvalidRequest
from tailrace.server.connections import Connections, Entry
from tailrace.server.http_protocol import HttpProtocol
from tailrace.server.refusal import refusal_response, too_many_connections

#: Connections that are accepted before the loop does something else.
_BATCH = 64
#: Seconds without accepting after this process had no file left to open, and where it has closed some since.
_PAUSE_SECONDS = 1.0
_SHORT_PAUSE_SECONDS = 0.02
#: Seconds in which a client that speaks plain HTTP to a port with TLS may read why it isn't served.
_PLAIN_SECONDS = 1.0
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

#: A client that is silent for so many seconds is asked by the kernel whether it is there, so often, at such intervals.
_KEEPALIVE_IDLE, _KEEPALIVE_PROBES, _KEEPALIVE_INTERVAL = 30, 3, 10
#: Bytes that the kernel takes for a connection beyond what is on its way: the rest waits in this process, where it is
#: counted.
_UNSENT_IN_KERNEL = 32_768
#: Linux' option of that meaning, which Python has no name for.
_TCP_NOTSENT_LOWAT = 25


class Listener:
    """One listening socket. ``make`` makes the protocol of a connection from its address and what it may ask for."""

    def __init__(
        self,
        sock: socket.socket,
        connections: Connections,
        make: Callable[[str, Entry], HttpProtocol],
        *,
        tls: object | None = None,
    ) -> None:
        """``tls``: the SSLContext; None for plain connections."""
        self._socket = sock
        self._connections = connections
        self._make = make
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resume: asyncio.TimerHandle | None = None
        self._refusal = refusal_response(too_many_connections())
        self._plain_refusal = refusal_response(
            InvalidRequest("This server speaks https: write https:// in its address.", code="https_required")
        )

    def start(self) -> None:
        """Accept from now on."""
        self._socket.setblocking(False)
        self._set_options()
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def accept_waiting(self) -> None:
        """Accept now what has come and waits in the kernel."""
        self._accept()

    def close(self) -> None:
        """Accept no more. Other processes that have the socket may."""
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _set_options(self) -> None:
        """What accepted sockets inherit: how clients that have vanished are found, and how much the kernel buffers."""
        if self._socket.family not in (socket.AF_INET, socket.AF_INET6):
            return
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        milliseconds = int(self._connections.limits.send_seconds * 1000)
        for name, value in (
            ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
            ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
            ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
            ("TCP_USER_TIMEOUT", milliseconds),
        ):
            if (option := getattr(socket, name, None)) is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, option, value)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            self._socket.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _UNSENT_IN_KERNEL)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    continue  # The client has gone already.
                self._pause()
                return
            self._admit(sock, str(address[0]) if isinstance(address, tuple) else "")

    def _admit(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        entry = self._connections.admit(address)
        if entry is None:
            if self._tls is None:
                try:
                    sock.send(self._refusal)
                except OSError:
                    pass  # The client sees that the connection ends.
            sock.close()
            return
        protocol = self._make(address, entry)
        self._connections.add(protocol)
        task = self._loop.create_task(self._connect(sock, protocol))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, sock: socket.socket, protocol: HttpProtocol) -> None:
        try:
            if self._tls is not None and not await self._begins_tls(sock):
                await self._refuse_plain(sock, protocol)
                return
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                sock,
                ssl=self._tls,  # type: ignore[arg-type]
                ssl_handshake_timeout=self._connections.limits.header_seconds if self._tls is not None else None,
            )
        except (OSError, TimeoutError):
            self._connections.remove(protocol)  # The client has gone, or hasn't finished TLS's handshake.
            sock.close()

    async def _begins_tls(self, sock: socket.socket) -> bool:
        """Whether the client's first byte, which stays unread, isn't the beginning of a plain request. Raises
        TimeoutError.
        """
        readable = asyncio.Event()
        self._loop.add_reader(sock, readable.set)
        try:
            async with asyncio.timeout(self._connections.limits.header_seconds):
                await readable.wait()
        finally:
            self._loop.remove_reader(sock)
        first = sock.recv(1, socket.MSG_PEEK)
        return not first.isalpha()

    async def _refuse_plain(self, sock: socket.socket, protocol: HttpProtocol) -> None:
        """Tell a client that speaks plain HTTP what the server speaks."""
        try:
            sock.send(self._plain_refusal)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(65_536)  # Unread bytes would reset the connection, and the client would lose the answer.
            await asyncio.sleep(_PLAIN_SECONDS)
        finally:
            self._connections.remove(protocol)
            sock.close()

    def _pause(self) -> None:
        seconds = _SHORT_PAUSE_SECONDS if self._connections.out_of_files() else _PAUSE_SECONDS
        self._loop.remove_reader(self._socket.fileno())
        self._resume = self._loop.call_later(
            seconds, lambda: self._loop.add_reader(self._socket.fileno(), self._accept)
        )
