"""A raw HTTP/1.1 client that hides nothing: exact bytes, chunk by chunk, and when each of them came.

It judges nothing: what is odd about a response is kept for the rules to look at. Everything it reads is bounded, in
time and in size.
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

#: More than any answer to the small requests that are made.
_MOST_BYTES = 16_000_000
_MOST_HEAD = 256_000
#: How long a server that was asked to close after its answer may take for it.
_CLOSING_SECONDS = 0.5

Framing = Literal["chunked", "length", "close", "none"]


class WireError(Exception):
    """What came was no whole HTTP response; says what was missing or wrong."""


class Closed(WireError):
    """The server closed the connection instead of answering."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a body: one chunk of the transfer encoding, or what one read brought where there is none."""

    at: float  #: when its last byte came, in seconds of ``time.perf_counter``
    data: bytes


@dataclass
class Reply:
    """A response as it was on the wire."""

    status: int
    headers: list[tuple[str, str]]  #: names as written
    asked_at: float
    head_at: float
    framing: Framing = "none"
    chunks: list[Chunk] = field(default_factory=list)
    #: Whether the body came to the end that its framing promised.
    whole: bool = False
    #: What stood behind the body's end.
    rest: bytes = b""
    #: Why the body never came to its end, for who keeps what came.
    broken: str = ""
    ended_at: float = 0.0

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(chunk.data for chunk in self.chunks)

    def header(self, name: str) -> str | None:
        """The header's value, whatever the case of its name; several are joined with commas, as HTTP has it."""
        found = [value for known, value in self.headers if known.lower() == name]
        return ", ".join(found) if found else None

    @property
    def media_type(self) -> str:
        """The content type without its parameters, as written."""
        return (self.header("content-type") or "").partition(";")[0].strip()

    def json(self) -> Any:
        """The body as JSON, or None when it is none."""
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
        self._asked_at = 0.0
        self._method = ""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Go away, whatever is still to come."""
        self._socket.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        pieces: int = 0,
        version: str = "1.1",
    ) -> None:
        """Write a request. ``pieces`` sends the body chunked, in chunks of that size; ``version`` is HTTP's."""
        lines = {"Host": self._target.authority, **(headers or {})}
        if body is not None:
            lines |= {"Transfer-Encoding": "chunked"} if pieces else {"Content-Length": str(len(body))}
        head = f"{method} {path} HTTP/{version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        data = head.encode("latin-1") + b"\r\n"
        if body is not None and pieces:
            for start in range(0, len(body), pieces):
                piece = body[start : start + pieces]
                data += b"%x\r\n%b\r\n" % (len(piece), piece)
            data += b"0\r\n\r\n"
        else:
            data += body or b""
        self._method = method
        self._asked_at = time.perf_counter()
        try:
            self._socket.sendall(data)
        except OSError as error:
            # The answer may be there already: a refusal that the server sent before it had read everything.
            if not isinstance(error, BrokenPipeError | ConnectionResetError):
                raise WireError(f"the request couldn't be sent: {error}") from error

    def head(self) -> Reply:
        """The status line and headers of the next response; informational ones (1xx) are passed over."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if len(self._buffer) > _MOST_HEAD:
                    raise WireError("the response's head doesn't end")
                if not self._more():
                    if not self._buffer:
                        raise Closed("the server closed the connection without an answer")
                    raise WireError(f"the server closed the connection after {self._buffer[:60]!r}")
            head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
            status, *lines = head.decode("latin-1").split("\r\n")
            version, _, rest = status.partition(" ")
            code = rest[:3]
            if not version.startswith("HTTP/1.") or not code.isdigit():
                raise WireError(f"no HTTP response, but {status[:60]!r}")
            if not code.startswith("1"):
                break
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        reply = Reply(int(code), headers, self._asked_at, time.perf_counter())
        reply.framing = self._framing(reply)
        return reply

    def chunks(self, reply: Reply) -> Iterator[Chunk]:
        """The body of ``reply`` as it comes; each piece is also kept there. Raises WireError when it breaks off."""
        pieces = {"chunked": self._chunked, "length": self._counted, "close": self._until_close, "none": _nothing}
        size = 0
        for chunk in pieces[reply.framing](reply):
            size += len(chunk.data)
            if size > _MOST_BYTES:
                raise WireError(f"the body is over {_MOST_BYTES} bytes")
            reply.chunks.append(chunk)
            yield chunk
        reply.whole = True
        reply.ended_at = time.perf_counter()

    def read(self) -> Reply:
        """A whole response. Raises WireError when none comes or it breaks off."""
        reply = self.head()
        for _ in self.chunks(reply):
            pass
        return reply

    def rest(self) -> bytes:
        """What else comes until the server closes, or until it has had the time for it."""
        self._socket.settimeout(_CLOSING_SECONDS)
        try:
            while data := self._socket.recv(65536):
                self._buffer += data
                if len(self._buffer) > _MOST_HEAD:
                    break
        except OSError:
            pass  # It keeps the connection open, or has reset it: nothing more comes.
        rest, self._buffer = self._buffer, b""
        return rest

    def _framing(self, reply: Reply) -> Framing:
        if self._method == "HEAD" or reply.status in (204, 304):
            return "none"
        if "chunked" in (reply.header("transfer-encoding") or "").lower():
            return "chunked"
        return "length" if reply.header("content-length") is not None else "close"

    def _chunked(self, _: Reply) -> Iterator[Chunk]:
        while True:
            line = self._line()
            try:
                size = int(line.partition(b";")[0], 16)
            except ValueError:
                raise WireError(f"no size of a chunk, but {line[:60]!r}") from None
            if size == 0:
                while self._line():
                    pass  # trailers
                return
            if size > _MOST_BYTES:
                raise WireError(f"a chunk of {size} bytes")
            self._fill(size + 2, "in the middle of a chunk")
            data, end, self._buffer = self._buffer[:size], self._buffer[size : size + 2], self._buffer[size + 2 :]
            if end != b"\r\n":
                raise WireError(f"a chunk of {size} bytes is longer than it says")
            yield Chunk(time.perf_counter(), data)

    def _counted(self, reply: Reply) -> Iterator[Chunk]:
        value = reply.header("content-length") or ""
        if not (value.isascii() and value.isdigit()):
            raise WireError(f"Content-Length is {value[:60]!r}")
        size = int(value)
        if size > _MOST_BYTES:
            raise WireError(f"a body of {size} bytes")
        self._fill(size, f"before the {size} bytes that Content-Length promised")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        yield Chunk(time.perf_counter(), data)

    def _until_close(self, _: Reply) -> Iterator[Chunk]:
        while True:
            if self._buffer:
                data, self._buffer = self._buffer, b""
                yield Chunk(time.perf_counter(), data)
            if not self._more():
                return

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _MOST_HEAD:
                raise WireError("the line of a chunk's size doesn't end")
            if not self._more():
                raise WireError("the server closed the connection before the terminating chunk")
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _fill(self, size: int, where: str) -> None:
        while len(self._buffer) < size:
            if not self._more():
                raise WireError(f"the server closed the connection {where}")

    def _more(self) -> bool:
        """Read once more; False at the end. Raises WireError when nothing comes for too long."""
        waited = time.perf_counter() - self._asked_at
        if waited > 10 * self._timeout:
            raise WireError(f"no end within {waited:.0f} s")
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise WireError(f"nothing came for {self._timeout:g} s (--timeout)") from None
        except ConnectionResetError:
            return False
        except OSError as error:
            raise WireError(f"the connection broke: {error}") from error
        self._buffer += data
        return bool(data)


def _nothing(_: Reply) -> Iterator[Chunk]:
    return iter(())


def _tls(target: Target) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if not target.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
