"""Requests of every dialect over raw sockets, many at once, with what each client saw: status, terminal events, gaps.

A request here never raises for what the server does: a reset, a refusal and a broken stream are outcomes.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from openai_wire import metric

Dialect = Literal["chat", "completions", "responses", "anthropic", "ollama", "llama"]
DIALECTS: tuple[Dialect, ...] = ("chat", "completions", "responses", "anthropic", "ollama", "llama")

#: A client that waits longer for a byte is a hung client.
HUNG_SECONDS = 90.0

_PATHS: dict[Dialect, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "anthropic": "/v1/messages",
    "ollama": "/api/chat",
    "llama": "/completion",
}

#: What ends a stream of each dialect: the regular end, or the event of an error.
_TERMINALS: dict[Dialect, re.Pattern[bytes]] = {
    "chat": re.compile(rb'^data: (?:\[DONE\]|\{"error":)', re.MULTILINE),
    "completions": re.compile(rb'^data: (?:\[DONE\]|\{"error":)', re.MULTILINE),
    # An ``error`` event comes before ``response.failed``, which ends the stream.
    "responses": re.compile(rb"^event: response\.(?:completed|incomplete|failed)$", re.MULTILINE),
    "anthropic": re.compile(rb"^event: (?:message_stop|error)$", re.MULTILINE),
    "ollama": re.compile(rb'^\{(?:.*"done": ?true|"error":)', re.MULTILINE),
    "llama": re.compile(rb'^data: (?:\{.*"stop": ?true|\{"error":)|^error: ', re.MULTILINE),
}


#: The event of a stream's error, or the body of a refusal, of any dialect.
_FAILURE = re.compile(
    rb'^(?:data: )?\{"(?:type":"error",")?error":|^event: (?:error|response\.failed)$|^error: ', re.MULTILINE
)


def body_of(dialect: Dialect, prompt: str, max_tokens: int, *, stream: bool = True) -> dict[str, object]:
    """The request's body. The reply goes on to ``max_tokens`` where the dialect has a field for that."""
    messages = [{"role": "user", "content": prompt}]
    if dialect == "chat":
        return {"messages": messages, "max_tokens": max_tokens, "stream": stream, "ignore_eos": True}
    if dialect == "completions":
        return {"prompt": prompt, "max_tokens": max_tokens, "stream": stream, "ignore_eos": True}
    if dialect == "responses":
        return {"input": prompt, "max_output_tokens": max(16, max_tokens), "stream": stream, "store": False}
    if dialect == "anthropic":
        return {"model": "smollm2-135m", "messages": messages, "max_tokens": max_tokens, "stream": stream}
    if dialect == "ollama":
        return {"model": "smollm2-135m", "messages": messages, "stream": stream, "options": {"num_predict": max_tokens}}
    return {"prompt": prompt, "n_predict": max_tokens, "stream": stream, "ignore_eos": True}


@dataclass
class Outcome:
    """One request as its client saw it. Times are seconds of the monotonic clock."""

    dialect: Dialect
    stream: bool
    sent: float
    status: int | None = None  #: None: no response came
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)  #: decoded
    complete: bool = False  #: whether the body came to its end as HTTP frames it
    hung: bool = False  #: whether the client gave up waiting
    first: float | None = None  #: when the first bytes of the body came
    ended: float = 0.0
    gaps: list[float] = field(default_factory=list)  #: between pieces of the body

    @property
    def accepted(self) -> bool:
        """Whether the server has begun a reply."""
        return self.status == 200

    @property
    def terminals(self) -> int:
        """How many terminal events the stream had."""
        return len(_TERMINALS[self.dialect].findall(self.body))

    @property
    def failed(self) -> bool:
        """Whether the reply ended with an error event."""
        return _FAILURE.search(self.body) is not None

    def problem(self, *, may_reset: bool = False) -> str | None:
        """The promise that the server broke to this client, if any. ``may_reset``: the HTTP process has died."""
        if self.hung:
            return f"{self.dialect}: hung for {HUNG_SECONDS} s after {len(self.body)} bytes"
        if self.status is None or not self.complete:
            return None if may_reset else f"{self.dialect}: cut off: status {self.status}, {self.body[-200:]!r}"
        if self.status == 200:
            if self.stream and self.terminals != 1:
                return f"{self.dialect}: {self.terminals} terminal events: {self.body[-300:]!r}"
            return None
        if self.status < 400:
            return f"{self.dialect}: status {self.status}"
        if self.status in (429, 503) and "retry-after" not in self.headers:
            return f"{self.dialect}: {self.status} without Retry-After: {self.body[:300]!r}"
        try:
            json.loads(self.body)
        except ValueError:
            return f"{self.dialect}: an error that isn't JSON: {self.body[:300]!r}"
        return None


async def send(
    port: int,
    dialect: Dialect,
    prompt: str = "Tell me a long story.",
    max_tokens: int = 64,
    *,
    stream: bool = True,
    fields: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    source: str | None = None,
    hung_seconds: float = HUNG_SECONDS,
) -> Outcome:
    """Send one request and read its reply to the end."""
    body = json.dumps({**body_of(dialect, prompt, max_tokens, stream=stream), **(fields or {})}).encode()
    lines = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body))}
    if dialect == "anthropic":
        lines["anthropic-version"] = "2023-06-01"
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    request = f"POST {_PATHS[dialect]} HTTP/1.1\r\n{head}\r\n".encode() + body
    return await send_bytes(port, request, dialect, stream=stream, source=source, hung_seconds=hung_seconds)


async def send_bytes(
    port: int,
    request: bytes,
    dialect: Dialect = "chat",
    *,
    stream: bool = False,
    source: str | None = None,
    hung_seconds: float = HUNG_SECONDS,
    unfinished: bool = False,
) -> Outcome:
    """Send the bytes of one request and read its reply to the end. ``unfinished``: the server may wait for more bytes
    than there are, so the connection's end follows them soon.
    """
    outcome = Outcome(dialect, stream, time.monotonic())
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, limit=2**24, local_addr=None if source is None else (source, 0)
        )
    except OSError:
        outcome.ended = time.monotonic()
        return outcome
    try:
        async with asyncio.timeout(None) as silence:
            writer.write(request)
            if unfinished:
                asyncio.get_running_loop().call_later(0.3, _end_writing, writer)
            await _read_reply(reader, outcome, silence, hung_seconds)
    except TimeoutError:
        outcome.hung = True
    except (OSError, asyncio.IncompleteReadError, EOFError):
        pass  # ``complete`` stays False.
    finally:
        outcome.ended = time.monotonic()
        writer.transport.abort()
    return outcome


def _end_writing(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        writer.write_eof()


async def _read_reply(
    reader: asyncio.StreamReader, outcome: Outcome, silence: asyncio.Timeout, hung_seconds: float
) -> None:
    def wait() -> None:
        silence.reschedule(asyncio.get_running_loop().time() + hung_seconds)

    wait()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.strip().split("\r\n")
    outcome.status = int(status.split(" ")[1])
    outcome.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    last = time.monotonic()

    def take(piece: bytes) -> None:
        nonlocal last
        now = time.monotonic()
        if outcome.first is None:
            outcome.first = now
        else:
            outcome.gaps.append(now - last)
        last = now
        outcome.body += piece
        wait()

    if outcome.headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            take((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        outcome.complete = True
    elif "content-length" in outcome.headers:
        take(await reader.readexactly(int(outcome.headers["content-length"])))
        outcome.complete = True
    else:
        while piece := await reader.read(65_536):
            take(piece)
        outcome.complete = True


async def send_all(port: int, count: int, max_tokens: int = 64, *, stream: bool = True) -> list[Outcome]:
    """``count`` requests at once, the dialects in turn."""
    return await asyncio.gather(
        *(send(port, DIALECTS[number % len(DIALECTS)], max_tokens=max_tokens, stream=stream) for number in range(count))
    )


def idle(port: int) -> bool:
    """Whether no request runs or waits."""
    return metric(port, "vllm:num_requests_running") + metric(port, "vllm:num_requests_waiting") == 0


def problems(outcomes: list[Outcome], *, may_reset: bool = False) -> list[str]:
    """The broken promises among the outcomes."""
    found = (outcome.problem(may_reset=may_reset) for outcome in outcomes)
    return [problem for problem in found if problem is not None]
