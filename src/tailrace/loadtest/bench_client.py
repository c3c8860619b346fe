"""Sends a load to any server with OpenAI's chat stream, and reports the time of each token.

The received bytes are parsed after the last one (see ``stream_receiver``). A reply that differs from its request raises
BenchError, so no statistic is made of it.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from tailrace.loadtest.load_profile import BenchRequest, LoadProfile
from tailrace.loadtest.load_stats import StreamTiming
from tailrace.loadtest.response_parser import ParsedResponse
from tailrace.loadtest.stream_receiver import SILENCE_SECONDS, RawStream, exchange


class BenchError(Exception):
    """The server can't be measured; the text says why."""


class BenchClient:
    """Measures the server at ``url`` (its root, or with ``/v1``). Without ``model`` the server's first one is used.

    ``source``: the address that the client connects from, where the server is to see another one than others'.
    ``verify``: whether the server's certificate has to be one that is trusted here.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        source: str | None = None,
        verify: bool = True,
    ) -> None:
        self._url: SplitResult = urlsplit(url if "//" in url else f"http://{url}")
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise BenchError(f"{url} is no http:// or https:// address")
        self._tls = _tls(verify=verify) if self._url.scheme == "https" else None
        self._address = (self._url.hostname, self._url.port or (80 if self._tls is None else 443))
        self._key = key
        self._source = source
        self.model = model or self._first_model()

    @property
    def port(self) -> int:
        """The server's port."""
        return self._address[1]

    def run(self, load: LoadProfile, turn: int) -> list[StreamTiming]:
        """One turn of ``load``. Raises BenchError when a reply differs from its request."""
        return self.exchange(load.requests(turn))

    def exchange(self, requests: Sequence[BenchRequest], *, until: int | None = None) -> list[StreamTiming]:
        """Send all requests, each at its time, and receive every reply.

        With ``until``, leave all streams when the one with that index has ended. Raises BenchError as ``run`` does.
        """
        streams = self.streams(requests)
        self.send_all(streams, until)
        if not all(stream.sent_at for stream in (streams if until is None else [streams[until]])):
            raise BenchError("a request was to follow another one's tokens, which was too short for that")
        return [_timing(request, stream) for request, stream in zip(requests, streams, strict=True)]

    def streams(self, requests: Sequence[BenchRequest]) -> list[RawStream]:
        """The requests as they are sent."""
        return [
            RawStream(
                self._request("POST", "/chat/completions", self._body(request)),
                start_after=request.start_after,
                # The first event has the role alone.
                disconnect_after=None if request.disconnect_after is None else request.disconnect_after + 1,
            )
            for request in requests
        ]

    def send_all(self, streams: Sequence[RawStream], until: int | None = None) -> None:
        """Send ``streams`` and receive every response, as ``exchange``, which parses them, too."""
        try:
            exchange(self._address, streams, until=until, source=self._source, tls=self._tls)
        except BlockingIOError:
            raise BenchError(f"nothing came for {SILENCE_SECONDS} seconds") from None
        except (ConnectionResetError, BrokenPipeError):
            raise BenchError("the server broke the connection off") from None
        except ssl.SSLCertVerificationError as error:
            raise BenchError(f"the server's certificate isn't trusted: {error.verify_message} (--insecure)") from error
        except OSError as error:
            host, port = self._address
            raise BenchError(f"no server at {host}:{port}: {error}") from error

    def _body(self, request: BenchRequest) -> bytes:
        return msgspec.json.encode(
            {
                "model": self.model,
                "messages": request.messages,
                "stream": True,
                "stream_options": {"include_usage": True},
                "temperature": 0,
                "max_tokens": request.max_tokens,
                "ignore_eos": request.exact_length,
                **request.extra_fields,
            }
        )

    def _first_model(self) -> str:
        stream = RawStream(self._request("GET", "/models", b""))
        self.send_all([stream])
        response = _parse(stream)
        if not response.ok:
            raise BenchError(f"the server doesn't list its models: {response.status_line}")
        try:
            return str(msgspec.json.decode(response.body)["data"][0]["id"])
        except (msgspec.DecodeError, LookupError, TypeError) as error:
            raise BenchError("the server's list of models can't be read; name one with --model") from error

    def _request(self, method: str, route: str, body: bytes) -> bytes:
        base = self._url.path.rstrip("/") or "/v1"
        key = f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        return (
            f"{method} {base}{route} HTTP/1.1\r\nHost: {self._url.netloc}\r\nConnection: close\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body


def _tls(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


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


def _parse(stream: RawStream) -> ParsedResponse:
    try:
        return ParsedResponse(stream.parts, stream.part_times)
    except ValueError as error:
        raise BenchError(f"the server's chunks can't be read: {error}") from error


def _timing(request: BenchRequest, stream: RawStream) -> StreamTiming:
    """The times of the stream's texts, each counted as one token. Raises BenchError for a failed or wrong reply."""
    timing = StreamTiming(stream.sent_at, [])
    if not stream.parts:
        return timing
    response = _parse(stream)
    if not response.ok:
        body = response.body[:500].decode("utf-8", "replace")
        raise BenchError(f"the server answered: {response.status_line or 'nothing'} {body}".strip())
    for time, data in response.events():
        if data == b"[DONE]":
            timing.ended_at = time
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
            if request.exact_length and timing.reply_tokens != request.max_tokens:
                raise BenchError(
                    f"a reply had {timing.reply_tokens} tokens instead of {request.max_tokens}: no comparison"
                )
        for choice in chunk.choices:
            if choice.delta.content:
                timing.text += choice.delta.content
                timing.token_times.append(time)
    if stream.completed and not timing.ended_at:
        raise BenchError("the server broke a reply off: its stream ended without [DONE]")
    if request.disconnect_after is not None:
        del timing.token_times[request.disconnect_after :]
    return timing
