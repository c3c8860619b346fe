"""A relay between clients and a server that treats streams as one-api does, with the same losses.

one-api reads an upstream's stream line by line. It and this relay do the following:

- A line that doesn't begin with the six bytes ``data: `` is dropped, comments and ``event:`` lines included.
- A line of 64 KiB or more ends the stream without a word: its scanner gives up.
- An event without choices and without usage is dropped, errors in a stream among them.
- ``[DONE]`` is sent once at the end, whether the upstream sent one or not, and however it ended.
- Usage is taken from the last event with usage. Every streamed request asks for it, because it is billed.
- Requests go up in chunks, without a Content-Length.
- An error of the upstream goes down with its status and the upstream's message and a request's id behind it. A 401, and
  certain types, codes and words in the message, disable the channel: from then on every request is refused.
- The upstream doesn't learn that the client has disconnected: its stream is read to the end.

Streams of other dialects are read by the same scanner, but ``event:`` lines go through, as new-api does it; NDJSON too.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

#: Go's ``bufio.MaxScanTokenSize``, the scanner's buffer: a line has to be shorter.
LONGEST_LINE = 64 * 1024
PREFIX = b"data: "
_CHAT = "/chat/completions"
_COMPLETIONS = "/completions"
#: The errors that disable a channel.
_FATAL_TYPES = {"insufficient_quota", "authentication_error", "permission_error", "forbidden"}
_FATAL_CODES = {"invalid_api_key", "account_deactivated"}
_FATAL_WORDS = ("credit", "balance", "permission denied", "organization has been", "your access was terminated")


def scanned(body: BinaryIO) -> Iterator[bytes]:
    """Lines as Go's scanner gives them; ends without a word at one that is too long, and when the upstream breaks."""
    while True:
        try:
            line = body.readline(LONGEST_LINE)
        except (http.client.HTTPException, OSError):
            return
        # A read may return more than was requested.
        if not line or len(line) > LONGEST_LINE or (len(line) == LONGEST_LINE and not line.endswith(b"\n")):
            return
        yield line.rstrip(b"\n").removesuffix(b"\r")


def fatal(status: int, error: dict[str, Any]) -> bool:
    """Whether the channel is disabled for this."""
    message = str(error.get("message", "")).lower()
    return (
        status == 401
        or error.get("type") in _FATAL_TYPES
        or error.get("code") in _FATAL_CODES
        or any(word in message for word in _FATAL_WORDS)
    )


class Relay:
    """See the module. ``port`` is where it listens; ``upstream`` the port of the server behind it."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.enabled = True
        #: The billed usage of each request.
        self.usages: list[dict[str, Any]] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.relay = self
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    relay: Relay
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent: pytest shows failures."""

    def do_GET(self) -> None:
        self._relay(None)

    def do_HEAD(self) -> None:
        self._relay(None)

    def do_POST(self) -> None:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._relay(body)

    def _chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        data = self.rfile.read(size)
        self.rfile.readline()
        return data

    def _relay(self, body: bytes | None) -> None:
        relay = self.server.relay
        if not relay.enabled:
            self._error(503, {"message": "no channel is enabled", "type": "one_api_error", "param": None, "code": None})
            return
        path = self.path.split("?")[0]
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() in {"authorization", "x-api-key", "content-type", "accept"}
            or name.lower().startswith("anthropic-")
        }
        if body is not None and path.endswith(_CHAT):
            body = _billed(body)
        upstream = http.client.HTTPConnection("127.0.0.1", relay.upstream)
        try:
            if body is None:
                upstream.request(self.command, self.path, headers=headers)
            else:
                headers["Transfer-Encoding"] = "chunked"
                pieces = (body[start : start + 4096] for start in range(0, len(body), 4096))
                upstream.request("POST", self.path, pieces, headers, encode_chunked=True)
            response = upstream.getresponse()
            kind = response.headers.get("content-type", "")
            if response.status >= 400:
                self._failed(response)
            elif kind.startswith("text/event-stream"):
                self._begin(kind)
                self._stream(response, path)
                self._piece(b"")
            elif kind.startswith("application/x-ndjson"):
                self._begin(kind)
                for line in scanned(response):
                    self._piece(line + b"\n")
                self._piece(b"")
            else:
                self._whole(response, kind)
        finally:
            upstream.close()

    def _stream(self, response: BinaryIO, path: str) -> None:
        """The events of a stream."""
        if not path.endswith(_COMPLETIONS):
            for line in scanned(response):
                if not line:
                    self._piece(b"\n")
                elif line.startswith((PREFIX, b"event: ")):
                    self._piece(line + b"\n")
            return
        usage: dict[str, Any] | None = None
        done = False
        for line in scanned(response):
            if not line.startswith(PREFIX):
                continue
            data = line.removeprefix(PREFIX)
            if data.startswith(b"[DONE]"):
                done = True
            else:
                event = json.loads(data)
                if not event.get("choices") and not event.get("usage"):
                    continue
                usage = event.get("usage") or usage
            self._piece(PREFIX + data + b"\n\n")
        if usage is not None:
            self.server.relay.usages.append(usage)
        if not done:
            self._piece(PREFIX + b"[DONE]\n\n")

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-Accel-Buffering", "no")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        """One write; an empty one ends the body."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _whole(self, response: http.client.HTTPResponse, kind: str) -> None:
        body = response.read()
        if self.path.split("?")[0].endswith(_COMPLETIONS):
            self.server.relay.usages.append(json.loads(body)["usage"])
        self.send_response(response.status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", response.headers.get("content-length") or str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _failed(self, response: http.client.HTTPResponse) -> None:
        """An upstream's error. one-api reads OpenAI's form; Ollama's text goes through as it is."""
        body = json.loads(response.read())
        error = body["error"]
        if fatal(response.status, error if isinstance(error, dict) else {"message": error}):
            self.server.relay.enabled = False
        if isinstance(error, dict):
            error["message"] += " (request id: 20260101000000000000000)"
        self._error(response.status, error, body)

    def _error(self, status: int, error: object, body: dict[str, Any] | None = None) -> None:
        data = json.dumps(body or {"error": error}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _billed(body: bytes) -> bytes:
    """The request, with ``include_usage`` where it is streamed. An unreadable body is sent unchanged."""
    try:
        request = json.loads(body)
    except ValueError:
        return body
    if isinstance(request, dict) and request.get("stream"):
        request["stream_options"] = {"include_usage": True}
        return json.dumps(request, ensure_ascii=False).encode()
    return body
