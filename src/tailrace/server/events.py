"""The one event model: what a generation emits, whatever the dialect.

For each choice any number of texts, reasonings and tool calls, then one ``Finish``; after the last choice's, one
``Usage``. Or, at any point, one ``Failure`` and nothing more. A ``KeepAlive`` may come in between.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from tailrace.errors import RequestError
from tailrace.protocol import TokenLogprobs
from tailrace.server.timings import Timings

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class TokenLogprob(msgspec.Struct, frozen=True):
    """One token's text, bytes and natural-log probability, and the likeliest tokens in its place."""

    text: str
    raw: bytes
    logprob: float
    top: list[tuple[str, bytes, float]]
    token: int = -1  #: its number
    ids: list[int] = []  #: those of ``top``; empty where they aren't known


class TextDelta(msgspec.Struct, frozen=True):
    """A piece of the visible reply (never empty, unless it only carries ``logprobs``)."""

    choice: int
    text: str
    logprobs: list[TokenLogprob] | None = None
    #: The text's tokens, with their log probabilities where the request has those; only of tracked choices.
    tokens: list[tuple[int, TokenLogprobs | None]] | None = None


class ReasoningDelta(msgspec.Struct, frozen=True):
    """A piece of the reasoning before the reply."""

    choice: int
    text: str


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A piece of tool call number ``index`` of the choice: the first has ``id`` and ``name``, later ones
    ``arguments``.
    """

    choice: int
    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Finish(msgspec.Struct, frozen=True):
    """The choice is complete. ``stop`` is the stop string that ended it, where one has."""

    choice: int
    reason: FinishReason
    stop: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the whole request: all prompts, all choices."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0  #: of the completion's: those of reasoning
    #: Draft tokens from the request's prediction that were accepted, and rejected; None without a prediction.
    accepted_tokens: int | None = None
    rejected_tokens: int | None = None


class PromptProgress(msgspec.Struct, frozen=True):
    """The progress of a choice's prompt, in tokens and seconds; only with ``TrackingOptions.progress``."""

    choice: int
    total: int
    cached: int
    processed: int
    seconds: float


class Timed(msgspec.Struct, frozen=True):
    """A choice's event with its timings at that moment; only with ``TrackingOptions.timings``."""

    event: Event
    timings: Timings


class KeepAlive(msgspec.Struct, frozen=True):
    """A sign of life after a long silence."""


class Failure(msgspec.Struct, frozen=True):
    """The generation has failed after it began. ``usage``: the tokens until then."""

    error: RequestError
    usage: Usage | None = None


Event = TextDelta | ReasoningDelta | ToolCallDelta | Finish | Usage | PromptProgress | Timed | KeepAlive | Failure


class EventSink(Protocol):
    """The receiver of one generation's events. ``emit`` is called while an event happens: it must not block or wait."""

    def emit(self, event: Event) -> None:
        """Take one event."""
        ...

    def tick(self, seconds: float) -> None:
        """The timer has run again after this many seconds."""
        ...


class EventBuffer:
    """Stores the events before a sink is attached."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        """See ``EventSink``."""
        self.events.append(event)

    def tick(self, seconds: float) -> None:
        """See ``EventSink``."""
