"""Framing and the engine's end of the socket between the two processes.

A frame is a 4-byte little-endian length and a msgpack body, over a pair of Unix stream sockets. There is no thread,
queue or lock of a messaging library in between: at six-millisecond steps each wake-up costs a measurable part of a
percent (``benchmarks/ipc.py`` compares this with ZeroMQ).
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from typing import Generic, TypeVar

import msgspec

from tailrace.errors import ProtocolError

_LENGTH = struct.Struct("<I")
#: A frame larger than this is a defect, not a message: the largest real one is a Hello with its vocabulary.
MAX_FRAME = 256 * 1024 * 1024
#: Holds many steps, so that a busy HTTP process doesn't hold up the engine.
SOCKET_BUFFER = 4 * 1024 * 1024

_encoder = msgspec.msgpack.Encoder()

M = TypeVar("M")


def frame(message: msgspec.Struct) -> bytes:
    """The bytes of one message on the wire."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameDecoder(Generic[M]):
    """Cuts a byte stream back into messages of the type it was made for."""

    def __init__(self, kind: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[M]:
        """Messages that ``data`` completes, in order. Raises ProtocolError on bytes that are no message."""
        buffer = self._buffer
        if not buffer and len(data) >= 4 and len(data) == 4 + _LENGTH.unpack_from(data)[0]:
            # Nearly every read is one whole step: decode it where it lies.
            try:
                return [self._decoder.decode(memoryview(data)[4:])]
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ProtocolError(f"not a message of this protocol: {error}") from error
        buffer += data
        messages: list[M] = []
        start = 0
        try:
            while len(buffer) - start >= 4:
                (length,) = _LENGTH.unpack_from(buffer, start)
                if length > MAX_FRAME:
                    raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")
                end = start + 4 + length
                if len(buffer) < end:
                    break
                # A copy, because the decoder's view would forbid shrinking the buffer below.
                messages.append(self._decoder.decode(bytes(buffer[start + 4 : end])))
                start = end
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"not a message of this protocol: {error}") from error
        if start:
            del buffer[:start]
        return messages


class Channel(Generic[M]):
    """The engine's blocking end: one thread receives, any thread sends."""

    def __init__(self, sock: socket.socket, kind: object) -> None:
        self._socket = sock
        self._frames: FrameDecoder[M] = FrameDecoder(kind)
        self._incoming = select.poll()
        self._incoming.register(sock, select.POLLIN)
        # Two threads send (replies to submits, and steps); uncontended it costs about 50 ns a message.
        self._lock = threading.Lock()

    def send(self, message: msgspec.Struct) -> None:
        """Send one message. Raises OSError when the peer is gone."""
        data = frame(message)
        with self._lock:
            self._socket.sendall(data)

    def receive(self) -> list[M] | None:
        """Block for the next messages; None when the peer has closed. Raises OSError when it broke."""
        while True:
            # Each read of the peer wakes a thread that sleeps in recv(): the kernel reports free buffer space to all
            # waiting threads. poll() waits for incoming data alone, which saves two context switches a step.
            self._incoming.poll()
            data = self._socket.recv(65536)
            if not data:
                return None
            messages = self._frames.feed(data)
            if messages:
                return messages

    def end(self) -> None:
        """End the connection, and with it a blocked ``receive`` in another thread, which sees the peer close."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # The peer closed first: nothing is left to shut down.

    def close(self) -> None:
        """End the connection and close the socket. No other thread may use it any more."""
        self.end()
        self._socket.close()


def connection_hub() -> tuple[socket.socket, socket.socket]:
    """The ends of the socket over which engines hand on connections: the HTTP process's and the engines'.

    The supervisor keeps both, so a connection that is offered while the HTTP process restarts waits for the next one.
    It has no name in the file system: nothing can delete it, and no other user can connect.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def offer_connection(hub: socket.socket) -> socket.socket:
    """Make a connection and hand one end on. Returns the other end. Raises OSError."""
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    with other:
        try:
            socket.send_fds(hub, [b"c"], [other.fileno()])
        except OSError:
            own.close()
            raise
    return own


def take_connection(hub: socket.socket) -> socket.socket | None:
    """The next connection that an engine has offered; None: there is none. ``hub`` must not block."""
    try:
        _, fds, _, _ = socket.recv_fds(hub, 16, 1)
    except BlockingIOError:
        return None
    return socket.socket(fileno=fds[0]) if fds else None
