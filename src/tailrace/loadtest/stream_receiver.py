"""Sends requests, and stores the received bytes with their times. It interprets nothing but the end of a response,
and the number of events where another request waits for one.

The client shares the machine with the server, so it does little: one thread, and one ``recv`` and one clock reading for
each piece. With several streams it waits in ``epoll``; the ``recv`` of a single stream waits by itself. So a token
costs about 0.7 of the same client with ``selectors`` and non-blocking sockets.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Sequence

#: A server that sends nothing for that long hangs.
SILENCE_SECONDS = 120
#: Bytes of one ``recv``, allocated for each call.
_RECV_BYTES = 4096
#: One second in the unit of the poll object's timeout. ``epoll`` is faster than ``poll`` with many streams.
_POLL_SECOND = 1 if sys.platform == "linux" else 1000
#: The end of a chunked body. Other bodies end with the connection: the request asks the server to close it.
_LAST_CHUNK = b"0\r\n\r\n"


class RawStream:
    """One request and the bytes of its response: ``parts[i]`` arrived at ``part_times[i]`` (``time.perf_counter``).

    ``start_after`` is (stream, events): the request is sent when the stream with this index has begun that many
    events. ``disconnect_after`` closes the connection when the event after that many begins, because a piece may end
    in the middle of an event.
    """

    def __init__(
        self, request: bytes, *, start_after: tuple[int, int] | None = None, disconnect_after: int | None = None
    ) -> None:
        self.request = request
        self.start_after = start_after
        self.disconnect_after = disconnect_after
        self.counts_events = disconnect_after is not None
        self.events = 0  #: events begun, where ``counts_events``
        self.sock: socket.socket | None = None
        self.sent_at = 0.0  #: 0 for a request that wasn't sent
        self.parts: list[bytes] = []
        self.part_times: list[float] = []
        self.completed = False  #: the server ended the response


def connect(address: tuple[str, int], source: str | None = None, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connection whose ``recv`` raises BlockingIOError after SILENCE_SECONDS. Raises OSError without a server.

    ``source``: the address of this end; None: as the system chooses. With ``tls`` the socket doesn't block.
    """
    own = None if source is None else (source, 0)
    sock = socket.create_connection(address, timeout=SILENCE_SECONDS, source_address=own)
    # The kernel's timeout, because Python's makes one more system call before each ``recv``.
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", SILENCE_SECONDS, 0))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if tls is not None:
        sock = tls.wrap_socket(sock, server_hostname=address[0])
        # A readable socket may have a part of a record alone, and ``recv`` must not wait for the rest.
        sock.setblocking(False)
    return sock


def exchange(
    address: tuple[str, int],
    streams: Sequence[RawStream],
    *,
    until: int | None = None,
    source: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Send every request at its time, and receive every response. ``source`` and ``tls``: see ``connect``.

    With ``until``, close all connections when the stream with that index has ended. Raises OSError, and
    BlockingIOError after SILENCE_SECONDS without a byte.
    """
    waiting = [stream for stream in streams if stream.start_after is not None]
    for stream in waiting:
        assert stream.start_after is not None
        streams[stream.start_after[0]].counts_events = True
    last = None if until is None else streams[until]
    try:
        _receive(streams, waiting, last, lambda: connect(address, source, tls), blocks=tls is None)
    finally:
        for stream in streams:
            if stream.sock is not None:
                stream.sock.close()


def _receive(
    streams: Sequence[RawStream],
    waiting: list[RawStream],
    last: RawStream | None,
    connected: Callable[[], socket.socket],
    *,
    blocks: bool,
) -> None:
    """``connected`` makes a connection; ``blocks``: its ``recv`` waits."""
    clock = time.perf_counter
    poller = select.epoll() if sys.platform == "linux" else select.poll()
    timeout = SILENCE_SECONDS * _POLL_SECOND
    running: dict[int, RawStream] = {}  #: by file descriptor

    def send(stream: RawStream) -> None:
        stream.sock = connected()
        stream.sent_at = clock()
        _send(stream.sock, stream.request)
        running[stream.sock.fileno()] = stream
        poller.register(stream.sock, select.POLLIN)

    for stream in streams:
        if stream.start_after is None:
            send(stream)
    while running:
        ready = poller.poll(timeout) if len(running) > 1 or not blocks else [(next(iter(running)), select.POLLIN)]
        if not ready:
            raise BlockingIOError
        for descriptor, _ in ready:
            stream = running[descriptor]
            assert stream.sock is not None
            data = stream.sock.recv(_RECV_BYTES) if blocks else _decrypted(stream.sock)
            if data is None:
                continue
            stream.part_times.append(clock())
            stream.parts.append(data)
            if stream.counts_events:
                stream.events += data.count(b"data:")
            # The two bytes before tell the last chunk from a header that ends in 0.
            if not data or (data.endswith(_LAST_CHUNK) and data[-7:-5] in (b"", b"\r\n")):
                stream.completed = True
            elif stream.disconnect_after is None or stream.events <= stream.disconnect_after:
                continue
            poller.unregister(descriptor)
            del running[descriptor]
            if stream is last:
                return
        for stream in [stream for stream in waiting if _is_due(stream, streams)] if waiting else ():
            waiting.remove(stream)
            send(stream)


def _send(sock: socket.socket, data: bytes) -> None:
    """Send all of it, also where the socket doesn't block."""
    if not isinstance(sock, ssl.SSLSocket):
        sock.sendall(data)
        return
    sock.settimeout(SILENCE_SECONDS)
    sock.sendall(data)
    sock.setblocking(False)


def _decrypted(sock: socket.socket) -> bytes | None:
    """All that can be read now; empty at the end. None where no record is complete."""
    assert isinstance(sock, ssl.SSLSocket)
    try:
        data = sock.recv(_RECV_BYTES)
        # The poller doesn't know of bytes that are decrypted already.
        while waiting := sock.pending():
            data += sock.recv(waiting)
    except ssl.SSLWantReadError:
        return None
    except ssl.SSLEOFError:
        return b""
    return data


def _is_due(stream: RawStream, streams: Sequence[RawStream]) -> bool:
    assert stream.start_after is not None
    other, events = stream.start_after
    return streams[other].events >= events
