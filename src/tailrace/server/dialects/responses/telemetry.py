"""llama-server's figures in responses, for clients that ask: ``timings_per_token`` and ``return_progress``."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.server.dialects.openai.telemetry import progress_object
from tailrace.server.dialects.responses.request import ResponsesRequest
from tailrace.server.events import Event, PromptProgress, Timed, Usage
from tailrace.server.generation import Generation
from tailrace.server.streaming import Encoder
from tailrace.server.timings import Timings
from tailrace.server.tracked_choice import TrackingOptions

_END = b"}\n\n"


class LifecycleStream(Encoder, Protocol):
    """The stream of a response."""

    def in_progress(self) -> list[bytes]:
        """An event that adds nothing."""
        ...


def tracking(request: ResponsesRequest) -> TrackingOptions | None:
    """What the figures that the request wants are made of; None where it wants none. Raises InvalidRequest."""
    wanted = [name for name in ("timings_per_token", "return_progress") if getattr(request, name)]
    if not wanted:
        return None
    if request.background:
        raise InvalidRequest(
            f"'{wanted[0]}': the figures of a response in the background aren't told.",
            param=wanted[0],
            code="unsupported_value",
        )
    streams = bool(request.stream)
    return TrackingOptions(
        progress=streams and bool(request.return_progress), timings=streams and bool(request.timings_per_token)
    )


def with_timings(body: dict[str, Any], request: ResponsesRequest, generation: Generation) -> dict[str, Any]:
    """The body for a client that doesn't stream."""
    return {**body, "timings": generation.tracked[0].timings} if request.timings_per_token else body


def telemetry(stream: LifecycleStream, generation: Generation) -> Encoder:
    """``stream``, or what adds the figures to its events where they are wanted."""
    return _Telemetry(stream, generation) if generation.tracked else stream


class _Telemetry:
    """See ``Encoder``."""

    def __init__(self, stream: LifecycleStream, generation: Generation) -> None:
        self._stream = stream
        self._choices = generation.tracked
        self._timed = False  #: whether events come with figures

    def start(self) -> list[bytes]:
        """See ``Encoder``: nothing is known yet."""
        return self._stream.start()

    def encode(self, event: Event) -> list[bytes]:
        """See ``Encoder``."""
        if isinstance(event, Timed):
            self._timed = True
            return [_with(piece, b"timings", event.timings) for piece in self._pieces(event.event)]
        if isinstance(event, Usage) and self._timed:
            return [_with(piece, b"timings", self._choices[0].timings) for piece in self._pieces(event)]
        return self._pieces(event)

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._stream.end()

    def _pieces(self, event: Event) -> list[bytes]:
        if isinstance(event, PromptProgress):
            progress = progress_object(event)
            return [_with(piece, b"prompt_progress", progress) for piece in self._stream.in_progress()]
        return self._stream.encode(event)


def _with(piece: bytes, name: bytes, value: dict[str, Any] | Timings) -> bytes:
    """The event with one key more."""
    return b"".join((piece.removesuffix(_END), b',"', name, b'":', msgspec.json.encode(value), _END))
