"""Drives a running server, any that speaks OpenAI's chat stream, and notes when each token arrives.

It shares the machine with what it measures, so it does as little as possible while it measures: one thread, one epoll,
one ``recv`` and one clock reading an event. What was received is parsed afterwards.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from tailrace.tools.load import Ask, Load, StreamTiming

#: Nothing for so long: the server hangs.
_SILENCE_SECONDS = 120.0


class BenchError(Exception):
    """The server can't be measured; says why."""


class _Stream:
    """One request, its socket once it has been sent, and what came when."""

    def __init__(self, ask: Ask, request: bytes) -> None:
        self.ask = ask
        self.request = request
        self.socket: socket.socket | None = None
        self.asked = 0.0
        self.received: list[tuple[float, bytes]] = []
        self.events = 0


class BenchClient:
    """Measures the server at ``url`` (its root, or with ``/v1``). ``model`` None asks the server for its first."""

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None) -> None:
        self._url: SplitResult = urlsplit(url if "//" in url else f"http://{url}")
        if self._url.scheme != "http" or not self._url.hostname:
            raise BenchError(f"{url} is no http:// address")
        self._key = key
        self.model = model or self._first_model()

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self._url.port or 80

    def run(self, load: Load, turn: int) -> list[StreamTiming]:
        """One turn of ``load``. Raises BenchError when a reply isn't what was asked for."""
        return self.exchange(load.asks(turn))

    def exchange(self, asks: Sequence[Ask], *, until: int | None = None) -> list[StreamTiming]:
        """Send all of ``asks``, each in its time, and receive every reply, or, with ``until``, leave them all when the
        one at that place has ended. Raises BenchError as ``run`` does.
        """
        streams = [_Stream(ask, self._request("POST", "/chat/completions", self._body(ask))) for ask in asks]
        try:
            with selectors.DefaultSelector() as selector:
                for stream in streams:
                    if stream.ask.after is None:
                        self._send(stream, selector)
                self._receive(selector, streams, until)
        finally:
            for stream in streams:
                if stream.socket is not None:
                    stream.socket.close()
        return [_timing(stream) for stream in streams]

    def _send(self, stream: _Stream, selector: selectors.BaseSelector) -> None:
        stream.socket = self._connect()
        stream.asked = time.perf_counter()
        stream.socket.sendall(stream.request)
        stream.socket.setblocking(False)
        selector.register(stream.socket, selectors.EVENT_READ, stream)

    def _receive(self, selector: selectors.BaseSelector, streams: list[_Stream], until: int | None) -> None:
        clock = time.perf_counter
        waiting = [stream for stream in streams if stream.ask.after is not None]
        running = set(range(len(streams)))
        while running if until is None else until in running:
            ready = selector.select(_SILENCE_SECONDS)
            if not ready:
                raise BenchError(f"nothing came for {_SILENCE_SECONDS:.0f} seconds")
            for key, _ in ready:
                stream: _Stream = key.data
                assert stream.socket is not None
                data = stream.socket.recv(65536)
                stream.received.append((clock(), data))
                stream.events += data.count(b"data: ")
                # The first event is the role's.
                most = stream.ask.hang_up_after
                if not data or data.endswith(b"0\r\n\r\n") or (most is not None and stream.events > most):
                    selector.unregister(stream.socket)
                    running.discard(streams.index(stream))
            if waiting:
                for stream in [stream for stream in waiting if _is_due(stream, streams)]:
                    waiting.remove(stream)
                    self._send(stream, selector)

    def _body(self, ask: Ask) -> bytes:
        return msgspec.json.encode(
            {
                "model": self.model,
                "messages": ask.messages,
                "stream": True,
                "stream_options": {"include_usage": True},
                "temperature": 0,
                "max_tokens": ask.max_tokens,
                "ignore_eos": ask.exact,
                **ask.more,
            }
        )

    def _first_model(self) -> str:
        sock = self._connect()
        try:
            sock.sendall(self._request("GET", "/models", b""))
            data = b""
            while part := sock.recv(65536):
                data += part
        finally:
            sock.close()
        head, _, body = data.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise BenchError(f"the server doesn't list its models: {head.decode('latin-1').splitlines()[0]}")
        try:
            return str(msgspec.json.decode(body if b"chunked" not in head.lower() else _dechunk(body))["data"][0]["id"])
        except (msgspec.DecodeError, LookupError, TypeError) as error:
            raise BenchError("the server's list of models can't be read; name one with --model") from error

    def _connect(self) -> socket.socket:
        address = (self._url.hostname or "", self.port)
        try:
            sock = socket.create_connection(address, timeout=_SILENCE_SECONDS)
        except OSError as error:
            raise BenchError(f"no server at {address[0]}:{address[1]}: {error}") from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _request(self, method: str, route: str, body: bytes) -> bytes:
        base = self._url.path.rstrip("/") or "/v1"
        key = f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        return (
            f"{method} {base}{route} HTTP/1.1\r\nHost: {self._url.netloc}\r\nConnection: close\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def _is_due(stream: _Stream, streams: list[_Stream]) -> bool:
    assert stream.ask.after is not None
    other, events = stream.ask.after
    return streams[other].events >= events


def _timing(stream: _Stream) -> StreamTiming:
    """The moments at which the stream's texts came, each counted as one token."""
    ask = stream.ask
    if not stream.received:
        return StreamTiming(stream.asked, [])
    head, events = _events(stream.received)
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise BenchError(f"the server answered: {head.decode('latin-1').splitlines()[0]}")
    timing = StreamTiming(stream.asked, [])
    for moment, data in events:
        if data == b"[DONE]":
            timing.ended = moment
            break
        chunk: dict[str, Any] = msgspec.json.decode(data)
        if "error" in chunk:
            raise BenchError(f"the server failed: {chunk['error']}")
        if usage := chunk.get("usage"):
            timing.prompt_tokens = usage["prompt_tokens"]
            timing.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            timing.reply_tokens = usage["completion_tokens"]
            if ask.exact and timing.reply_tokens != ask.max_tokens:
                raise BenchError(f"a reply had {timing.reply_tokens} tokens instead of {ask.max_tokens}: no comparison")
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                timing.text += text
                timing.tokens.append(moment)
    if ask.hang_up_after is not None:
        del timing.tokens[ask.hang_up_after :]
    return timing


def _events(received: list[tuple[float, bytes]]) -> tuple[bytes, list[tuple[float, bytes]]]:
    """The response's head, and each event's data with the moment at which its last byte came."""
    raw = b"".join(data for _, data in received)
    head, _, body = raw.partition(b"\r\n\r\n")
    ends: list[tuple[int, float]] = []
    position = 0
    for moment, data in received:
        position += len(data)
        ends.append((position, moment))
    events: list[tuple[float, bytes]] = []
    offset = len(head) + 4
    index = 0
    start = 0
    while (start := body.find(b"data: ", start)) >= 0:
        end = body.find(b"\n\n", start)
        if end < 0:
            break
        while ends[index][0] < offset + end + 2:
            index += 1
        events.append((ends[index][1], body[start + 6 : end]))
        start = end
    return head, events


def _dechunk(body: bytes) -> bytes:
    out = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        out += body[:length]
        body = body[length + 2 :]
    return out
