"""A small model server in this process. It follows every wire rule in every dialect; an alteration can break one.

What it says is made of the prompt's words, a word a token. ``alter`` sees each request with its answer before it is
written, and may change anything of it: a fault is a few lines, and everything else stays as it has to be.
"""

from __future__ import annotations

import gzip
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass
class Asked:
    """A request as it came."""

    method: str
    path: str  #: as written, without the query
    headers: dict[str, str]  #: by lower-case names
    raw: bytes
    chunked: bool
    version: str = "HTTP/1.1"

    @property
    def body(self) -> Any:
        """The body's JSON, None when it is none."""
        raw = gzip.decompress(self.raw) if self.headers.get("content-encoding") == "gzip" else self.raw
        try:
            return json.loads(raw.decode("utf-8-sig"))
        except ValueError:
            return None
        except RecursionError:
            return {}  # JSON, but none that can be read.

    @property
    def streams(self) -> bool:
        """Whether the request asks for a stream."""
        return isinstance(self.body, dict) and self.body.get("stream") is True


@dataclass
class Answer:
    """A response to be written. With ``pieces`` it is a stream, each of them a chunk; ``pauses`` are the seconds to
    wait ahead of a piece. ``tail`` is written behind the end, ``head_pause`` waited ahead of the head.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: list[bytes] | None = None
    pauses: dict[int, float] = field(default_factory=dict)
    head_pause: float = 0.0
    tail: bytes = b""
    end: bytes = b"0\r\n\r\n"
    framing: str = "chunked"  #: of streams: chunked, length or close
    closes: bool = False  #: closes the connection without announcing it

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)

    def say(self, body: object) -> Answer:
        """Another JSON body."""
        self.body = json.dumps(body).encode()
        return self

    def refuse(self, status: int, body: object) -> Answer:
        """Another answer: no stream, but this status and body."""
        self.status, self.pieces = status, None
        self.headers["content-type"] = "application/json"
        return self.say(body)


Alter = Callable[["ModelServer", Asked, Answer], None]
Respond = Callable[["ModelServer", Asked], Answer]


class ModelServer:
    """The server, from its construction to ``close``. ``running`` counts replies that are being written."""

    def __init__(self, respond: Respond, alter: Alter | None = None, key: str | None = None) -> None:
        self.key = key
        self.running = 0
        self.alter = alter or (lambda server, asked, answer: None)
        self.respond = respond
        self.lock = threading.Lock()
        #: For faults that remember something.
        self.memory: list[Any] = []
        #: Whether a generation ends when its client has gone; and whether there is one at a time.
        self.cancels = True
        self._tcp = _Threads(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._tcp.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._tcp.server_address[1]}"

    def close(self) -> None:
        """Stop listening."""
        self._tcp.shutdown()
        self._tcp.server_close()
        self._thread.join()

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


def _handler(server: ModelServer) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            try:
                while (asked := self._read()) is not None:
                    answer = server.respond(server, asked)
                    server.alter(server, asked, answer)
                    self._write(asked, answer)
                    if asked.headers.get("connection") == "close" or answer.framing == "close" or answer.closes:
                        return
            except ConnectionError:
                return

        def _read(self) -> Asked | None:
            line = self.rfile.readline().decode("latin-1").split()
            if len(line) != 3:
                return None
            headers: dict[str, str] = {}
            while header := self.rfile.readline().decode("latin-1").strip():
                name, _, value = header.partition(":")
                headers[name.lower()] = value.strip()
            chunked = "transfer-encoding" in headers
            raw = b""
            if chunked:
                while size := int(self.rfile.readline(), 16):
                    raw += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                raw = self.rfile.read(int(headers.get("content-length", "0")))
            return Asked(line[0], line[1].partition("?")[0], headers, raw, chunked, line[2])

        def _write(self, asked: Asked, answer: Answer) -> None:
            time.sleep(answer.head_pause)
            headers = dict(answer.headers)
            if answer.pieces is None:
                headers["content-length"] = str(len(answer.body))
            elif answer.framing == "chunked":
                headers["transfer-encoding"] = "chunked"
            elif answer.framing == "length":
                headers["content-length"] = str(sum(map(len, answer.pieces)))
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            self.wfile.write(f"HTTP/1.1 {answer.status} Because\r\n{lines}\r\n".encode("latin-1"))
            if answer.pieces is None:
                if asked.method != "HEAD":
                    self.wfile.write(answer.body)
                return
            with server.lock:
                server.running += 1
            try:
                self._stream(answer)
            finally:
                with server.lock:
                    server.running -= 1

        def _stream(self, answer: Answer) -> None:
            gone = False
            for place, piece in enumerate(answer.pieces or ()):
                if pause := answer.pauses.get(place):
                    time.sleep(pause)
                gone = gone or self._has_gone()
                if gone and server.cancels:
                    raise ConnectionError
                if not gone:
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.framing == "chunked" else piece)
            if answer.framing == "chunked" and not gone:
                self.wfile.write(answer.end + answer.tail)

        def _has_gone(self) -> bool:
            """Whether the client has closed. (One that sends on ahead of the reply hasn't.)"""
            try:
                return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False

    return Handler
