"""llama-server's ``timings_per_token`` and ``return_progress`` on OpenAI's routes.

Chunks have the keys only on request: OpenAI's schemas don't have them, and some clients skip chunks with them."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from tailrace.server.dialects.openai.generation_params import SharedParameters
from tailrace.server.events import Event, PromptProgress, Timed, Usage
from tailrace.server.generation import Generation
from tailrace.server.generation_request import GenerationRequest
from tailrace.server.stream_encoder import Encoder
from tailrace.server.timings import Timings
from tailrace.server.tracked_choice import TrackingOptions

_END = b"}\n\n"


class MeasuredStream(Encoder, Protocol):
    """A stream whose events can carry progress and timings."""

    def empty(self, choice: int) -> list[bytes]:
        """An event that adds nothing to the choice."""
        ...


def tracked(payload: SharedParameters, generation_request: GenerationRequest) -> GenerationRequest:
    """``generation_request`` with the tracking that the request's progress and timings need."""
    progress = bool(payload.return_progress and payload.stream)
    if not (progress or payload.timings_per_token):
        return generation_request
    timings = bool(payload.timings_per_token and payload.stream)
    return msgspec.structs.replace(generation_request, tracking=TrackingOptions(progress=progress, timings=timings))


def with_timings(body: dict[str, Any], payload: SharedParameters, generation: Generation) -> dict[str, Any]:
    """The body of a reply that isn't streamed, with the first choice's timings where requested."""
    return {**body, "timings": generation.tracked[0].timings} if payload.timings_per_token else body


def telemetry(stream: MeasuredStream, generation: Generation, *, timings: bool) -> Encoder:
    """``stream``, with progress and timings where the request asks for them."""
    return _Telemetry(stream, generation, timings=timings) if generation.tracked else stream


class _Telemetry:
    """See ``Encoder``."""

    def __init__(self, stream: MeasuredStream, generation: Generation, *, timings: bool) -> None:
        self._stream = stream
        self._timings = timings
        self._choices = generation.tracked

    def start(self) -> list[bytes]:
        """See ``Encoder``: there are no figures yet."""
        return self._stream.start()

    def encode(self, event: Event) -> list[bytes]:
        """See ``Encoder``."""
        if isinstance(event, Timed):
            return [_with(piece, b"timings", event.timings) for piece in self._encode(event.event)]
        if isinstance(event, Usage) and self._timings:
            return [_with(piece, b"timings", self._choices[0].timings) for piece in self._encode(event)]
        return self._encode(event)

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._stream.end()

    def _encode(self, event: Event) -> list[bytes]:
        if isinstance(event, PromptProgress):
            progress = progress_object(event)
            return [_with(piece, b"prompt_progress", progress) for piece in self._stream.empty(event.choice)]
        return self._stream.encode(event)


def progress_object(event: PromptProgress) -> dict[str, Any]:
    """llama-server's ``prompt_progress``; time in milliseconds."""
    return {
        "total": event.total,
        "cache": event.cached,
        "processed": event.processed,
        "time_ms": round(event.seconds * 1000),
    }


def _with(piece: bytes, name: bytes, value: dict[str, Any] | Timings) -> bytes:
    """The event with one more key; a comment unchanged."""
    if not piece.endswith(_END):
        return piece
    return b"".join((piece.removesuffix(_END), b',"', name, b'":', msgspec.json.encode(value), _END))
