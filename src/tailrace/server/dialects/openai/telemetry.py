"""llama-server's figures on OpenAI's routes, for clients that ask: ``timings_per_token`` and ``return_progress``.

Nobody else's chunks have the keys: OpenAI's schemas don't know them, and some clients skip chunks with them.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from tailrace.server.dialects.openai.sampling import SharedParameters
from tailrace.server.events import Event, PromptProgress, Timed, Usage
from tailrace.server.generation import Generation, GenerationRequest
from tailrace.server.streaming import Encoder
from tailrace.server.timings import Timings
from tailrace.server.tracked_choice import TrackingOptions

_END = b"}\n\n"


class TextStream(Encoder, Protocol):
    """A stream of OpenAI's text dialects."""

    def empty(self, choice: int) -> bytes:
        """A chunk that adds nothing to the choice."""
        ...


def tracked(asked: SharedParameters, wanted: GenerationRequest) -> GenerationRequest:
    """``wanted``, with what the figures that ``asked`` wants are made of."""
    progress = bool(asked.return_progress and asked.stream)
    if not (progress or asked.timings_per_token):
        return wanted
    timings = bool(asked.timings_per_token and asked.stream)
    return msgspec.structs.replace(wanted, tracking=TrackingOptions(progress=progress, timings=timings))


def with_timings(body: dict[str, Any], asked: SharedParameters, generation: Generation) -> dict[str, Any]:
    """The body for a client that doesn't stream, with the first choice's timings where they are wanted."""
    return {**body, "timings": generation.tracked[0].timings} if asked.timings_per_token else body


def telemetry(stream: TextStream, asked: SharedParameters, generation: Generation) -> Encoder:
    """``stream``, or what adds the figures to its chunks where the request wants them."""
    return _Telemetry(stream, bool(asked.timings_per_token), generation) if generation.tracked else stream


class _Telemetry:
    """See ``Encoder``."""

    def __init__(self, stream: TextStream, timings: bool, generation: Generation) -> None:
        self._stream = stream
        self._timings = timings
        self._choices = generation.tracked

    def start(self) -> list[bytes]:
        """See ``Encoder``: nothing is known yet."""
        return self._stream.start()

    def encode(self, event: Event) -> list[bytes]:
        """See ``Encoder``."""
        if isinstance(event, Timed):
            return [_with(piece, b"timings", event.timings) for piece in self._pieces(event.event)]
        if isinstance(event, Usage) and self._timings:
            return [_with(piece, b"timings", self._choices[0].timings) for piece in self._pieces(event)]
        return self._pieces(event)

    def _pieces(self, event: Event) -> list[bytes]:
        if isinstance(event, PromptProgress):
            return [_with(self._stream.empty(event.choice), b"prompt_progress", progress_object(event))]
        return self._stream.encode(event)

    def end(self) -> bytes:
        """See ``Encoder``."""
        return self._stream.end()


def progress_object(event: PromptProgress) -> dict[str, Any]:
    """llama-server's ``prompt_progress``; time in milliseconds."""
    return {
        "total": event.total,
        "cache": event.cached,
        "processed": event.processed,
        "time_ms": round(event.seconds * 1000),
    }


def _with(piece: bytes, name: bytes, value: dict[str, Any] | Timings) -> bytes:
    """The chunk with one key more; a comment as it is."""
    if not piece.startswith(b"data: {"):
        return piece
    return b"".join((piece.removesuffix(_END), b',"', name, b'":', msgspec.json.encode(value), _END))
