"""A raw HTTP/1.1 client that hides nothing: the exact bytes of a response, chunk by chunk, and each chunk's time.

It judges nothing: oddities of a response are stored for the rules. Everything that it reads is bounded, in time and in
size.
"""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tailrace.conformance.target import CheckError, Target

#: Above the size of any response to the checker's small requests.
_MAX_BODY_BYTES = 16_000_000
_MAX_HEAD_BYTES = 256_000
#: Time for a server to close the connection after a response to ``Connection: close``.
_CLOSING_SECONDS = 0.5

Framing = Literal["chunked", "length", "close", "none"]


class ProtocolError(Exception):
    """The response is no complete HTTP message; the text says what is missing or wrong."""


class ConnectionClosed(ProtocolError):
    """The server closed the connection instead of answering."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a body: one chunk of the transfer encoding, or the bytes of one read where there is none."""

    received_at: float  #: time of its last byte, in seconds of ``time.perf_counter``
    data: bytes


@dataclass
class Response:
    """A response as it was on the wire."""

    status: int
    headers: list[tuple[str, str]]  #: names as written
    sent_at: float
    headers_at: float
    framing: Framing = "none"
    chunks: list[Chunk] = field(default_factory=list)
    #: The bytes behind the body's end.
    trailing: bytes = b""
    #: The reason why the body is incomplete, empty for a complete one.
    truncated: str = ""
    ended_at: float = 0.0

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(chunk.data for chunk in self.chunks)

    def header(self, name: str) -> str | None:
        """The header's value. ``name`` is in lower case; repeated headers are joined with commas."""
        found = [value for known, value in self.headers if known.lower() == name]
        return ", ".join(found) if found else None

    @property
    def media_type(self) -> str:
        """The content type without its parameters, as written."""
        return (self.header("content-type") or "").partition(";")[0].strip()

    def json(self) -> Any:
        """The body as JSON, None for any other body."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Connection:
    """One connection to the server."""

    def __init__(self, target: Target, timeout: float) -> None:
        self._target = target
        self._timeout = timeout
        try:
            raw = socket.create_connection((target.host, target.port), timeout=timeout)
        except OSError as error:
            raise CheckError(f"no server at {target.host}:{target.port}: {error}") from error
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = raw
        if target.secure:
            try:
                self._socket = _tls(target).wrap_socket(raw, server_hostname=target.host)
            except OSError as error:
                raw.close()
                raise CheckError(f"no TLS with {target.host}:{target.port}: {error}") from error
        self._buffer = b""
        self._sent_at = 0.0
        self._method = ""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, even in the middle of a response."""
        self._socket.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunk_size: int = 0,
        version: str = "1.1",
    ) -> None:
        """Write a request. ``chunk_size`` sends the body in chunks of that many bytes; ``version`` is HTTP's."""
        lines = {"Host": self._target.authority, **(headers or {})}
        if body is not None:
            lines |= {"Transfer-Encoding": "chunked"} if chunk_size else {"Content-Length": str(len(body))}
        head = f"{method} {path} HTTP/{version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        data = head.encode("latin-1") + b"\r\n"
        if body is not None and chunk_size:
            for start in range(0, len(body), chunk_size):
                piece = body[start : start + chunk_size]
                data += b"%x\r\n%b\r\n" % (len(piece), piece)
            data += b"0\r\n\r\n"
        else:
            data += body or b""
        self._method = method
        self._sent_at = time.perf_counter()
        try:
            self._socket.sendall(data)
        except OSError as error:
            # The response may be there already: a server may refuse a request before it has read the whole body.
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                raise ProtocolError(f"the request couldn't be sent: {error}") from error

    def read_head(self) -> Response:
        """The status line and headers of the next response; informational responses (1xx) are skipped."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise ProtocolError("the response's head doesn't end")
                if not self._receive():
                    if not self._buffer:
                        raise ConnectionClosed("the server closed the connection without an answer")
                    raise ProtocolError(f"the server closed the connection after {self._buffer[:60]!r}")
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            status, *lines = head.decode("latin-1").split("\r\n")
            version, _, rest = status.partition(" ")
            code = rest[:3]
            if not version.startswith("HTTP/1.") or not code.isdigit():
                raise ProtocolError(f"no HTTP response, but {status[:60]!r}")
            if not code.startswith("1"):
                break
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        reply = Response(int(code), headers, self._sent_at, time.perf_counter())
        reply.framing = self._framing(reply)
        return reply

    def read_body(self, reply: Response) -> Iterator[Chunk]:
        """The chunks of the body as they arrive; each is also appended to ``reply.chunks``.

        Raises ProtocolError when the body ends too early.
        """
        readers = {
            "chunked": self._chunked_body,
            "length": self._length_body,
            "close": self._until_close_body,
            "none": _empty_body,
        }
        size = 0
        for chunk in readers[reply.framing](reply):
            size += len(chunk.data)
            if size > _MAX_BODY_BYTES:
                raise ProtocolError(f"the body is over {_MAX_BODY_BYTES} bytes")
            reply.chunks.append(chunk)
            yield chunk
        reply.ended_at = time.perf_counter()

    def read(self) -> Response:
        """A complete response. Raises ProtocolError when there is none, or when it ends too early."""
        reply = self.read_head()
        for _ in self.read_body(reply):
            pass
        return reply

    def read_trailing(self) -> bytes:
        """All bytes until the server closes, or until ``_CLOSING_SECONDS`` without one."""
        self._socket.settimeout(_CLOSING_SECONDS)
        try:
            while data := self._socket.recv(65536):
                self._buffer += data
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    break
        except OSError:
            pass  # The server keeps the connection open, or has reset it: there are no more bytes.
        trailing, self._buffer = self._buffer, b""
        return trailing

    def _framing(self, reply: Response) -> Framing:
        if self._method == "HEAD" or reply.status in (204, 304):
            return "none"
        if "chunked" in (reply.header("transfer-encoding") or "").lower():
            return "chunked"
        return "length" if reply.header("content-length") is not None else "close"

    def _chunked_body(self, _: Response) -> Iterator[Chunk]:
        while True:
            line = self._line()
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise ProtocolError(f"no size of a chunk, but {line[:60]!r}") from None
            if size == 0:
                while self._line():
                    pass  # trailers
                return
            if size > _MAX_BODY_BYTES:
                raise ProtocolError(f"a chunk of {size} bytes")
            self._fill(size + 2, "in the middle of a chunk")
            data, end, self._buffer = self._buffer[:size], self._buffer[size : size + 2], self._buffer[size + 2 :]
            if end != b"\r\n":
                raise ProtocolError(f"a chunk of {size} bytes is longer than it says")
            yield Chunk(time.perf_counter(), data)

    def _length_body(self, reply: Response) -> Iterator[Chunk]:
        value = reply.header("content-length") or ""
        if not (value.isascii() and value.isdigit()):
            raise ProtocolError(f"Content-Length is {value[:60]!r}")
        size = int(value)
        if size > _MAX_BODY_BYTES:
            raise ProtocolError(f"a body of {size} bytes")
        self._fill(size, f"before the {size} bytes that Content-Length promised")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        yield Chunk(time.perf_counter(), data)

    def _until_close_body(self, _: Response) -> Iterator[Chunk]:
        while True:
            if self._buffer:
                data, self._buffer = self._buffer, b""
                yield Chunk(time.perf_counter(), data)
            if not self._receive():
                return

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise ProtocolError("the line of a chunk's size doesn't end")
            if not self._receive():
                raise ProtocolError("the server closed the connection before the terminating chunk")
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _fill(self, size: int, where: str) -> None:
        while len(self._buffer) < size:
            if not self._receive():
                raise ProtocolError(f"the server closed the connection {where}")

    def _receive(self) -> bool:
        """Read once more; False at the end of the connection. Raises ProtocolError at a timeout."""
        waited = time.perf_counter() - self._sent_at
        if waited > 10 * self._timeout:
            raise ProtocolError(f"no end within {waited:.0f} s")
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise ProtocolError(f"nothing came for {self._timeout:g} s (--timeout)") from None
        except ConnectionResetError:
            return False
        except OSError as error:
            raise ProtocolError(f"the connection broke: {error}") from error
        self._buffer += data
        return bool(data)


def _empty_body(_: Response) -> Iterator[Chunk]:
    return iter(())


def _tls(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
