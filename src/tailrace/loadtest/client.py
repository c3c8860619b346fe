"""Drives a running server, any that speaks OpenAI's chat stream, and notes when each token arrives.

What was received is read afterwards (see ``receiver``), and has to be what was asked for: else there is no figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from tailrace.loadtest.answer import Answer
from tailrace.loadtest.load import Ask, Load, StreamTiming
from tailrace.loadtest.receiver import SILENCE_SECONDS, Stream, exchange


class BenchError(Exception):
    """The server can't be measured; says why."""


class BenchClient:
    """Measures the server at ``url`` (its root, or with ``/v1``). ``model`` None asks the server for its first."""

    def __init__(self, url: str, *, model: str | None = None, key: str | None = None) -> None:
        self._url: SplitResult = urlsplit(url if "//" in url else f"http://{url}")
        if self._url.scheme != "http" or not self._url.hostname:
            raise BenchError(f"{url} is no http:// address")
        self._address = (self._url.hostname, self._url.port or 80)
        self._key = key
        self.model = model or self._first_model()

    @property
    def port(self) -> int:
        """Where the server listens."""
        return self._address[1]

    def run(self, load: Load, turn: int) -> list[StreamTiming]:
        """One turn of ``load``. Raises BenchError when a reply isn't what was asked for."""
        return self.exchange(load.asks(turn))

    def exchange(self, asks: Sequence[Ask], *, until: int | None = None) -> list[StreamTiming]:
        """Send all of ``asks``, each in its time, and receive every reply, or, with ``until``, leave them all when the
        one at that place has ended. Raises BenchError as ``run`` does.
        """
        streams = [
            Stream(
                self._request("POST", "/chat/completions", self._body(ask)),
                after=ask.after,
                # The first event is the role's.
                hang_up_after=None if ask.hang_up_after is None else ask.hang_up_after + 1,
            )
            for ask in asks
        ]
        self._exchange(streams, until)
        if not all(stream.asked for stream in (streams if until is None else [streams[until]])):
            raise BenchError("a request was to follow another one's tokens, which was too short for that")
        return [_timing(ask, stream) for ask, stream in zip(asks, streams, strict=True)]

    def _exchange(self, streams: Sequence[Stream], until: int | None) -> None:
        try:
            exchange(self._address, streams, until=until)
        except BlockingIOError:
            raise BenchError(f"nothing came for {SILENCE_SECONDS} seconds") from None
        except (ConnectionResetError, BrokenPipeError):
            raise BenchError("the server broke the connection off") from None
        except OSError as error:
            host, port = self._address
            raise BenchError(f"no server at {host}:{port}: {error}") from error

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
        stream = Stream(self._request("GET", "/models", b""))
        self._exchange([stream], None)
        answer = _answer(stream)
        if not answer.ok:
            raise BenchError(f"the server doesn't list its models: {answer.status_line}")
        try:
            return str(msgspec.json.decode(answer.body)["data"][0]["id"])
        except (msgspec.DecodeError, LookupError, TypeError) as error:
            raise BenchError("the server's list of models can't be read; name one with --model") from error

    def _request(self, method: str, route: str, body: bytes) -> bytes:
        base = self._url.path.rstrip("/") or "/v1"
        key = f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        return (
            f"{method} {base}{route} HTTP/1.1\r\nHost: {self._url.netloc}\r\nConnection: close\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


def _answer(stream: Stream) -> Answer:
    try:
        return Answer(stream.parts, stream.moments)
    except ValueError as error:
        raise BenchError(f"the server's chunks can't be read: {error}") from error


def _timing(ask: Ask, stream: Stream) -> StreamTiming:
    """The moments at which the stream's texts came, each counted as one token."""
    timing = StreamTiming(stream.asked, [])
    if not stream.parts:
        return timing
    answer = _answer(stream)
    if not answer.ok:
        body = answer.body[:500].decode("utf-8", "replace")
        raise BenchError(f"the server answered: {answer.status_line or 'nothing'} {body}".strip())
    for moment, data in answer.events():
        if data == b"[DONE]":
            timing.ended = moment
            break
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except msgspec.DecodeError as error:
            raise BenchError(f"the server wrote no chunk of a chat: {data.decode('utf-8', 'replace')}") from error
        if chunk.error is not None:
            raise BenchError(f"the server failed: {chunk.error}")
        if usage := chunk.usage:
            timing.prompt_tokens = usage.prompt_tokens
            timing.cached_tokens = (usage.prompt_tokens_details or _Details()).cached_tokens or 0
            timing.reply_tokens = usage.completion_tokens
            if ask.exact and timing.reply_tokens != ask.max_tokens:
                raise BenchError(f"a reply had {timing.reply_tokens} tokens instead of {ask.max_tokens}: no comparison")
        for choice in chunk.choices:
            if choice.delta.content:
                timing.text += choice.delta.content
                timing.tokens.append(moment)
    if stream.ended and not timing.ended:
        raise BenchError("the server broke a reply off: its stream ended without [DONE]")
    if ask.hang_up_after is not None:
        del timing.tokens[ask.hang_up_after :]
    return timing
