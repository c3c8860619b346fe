"""A whole reply, collected from events, for clients that don't stream."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from starlette.types import Receive

from tailrace.errors import RequestError
from tailrace.protocol import TokenLogprobs
from tailrace.server.events import (
    Event,
    Failure,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from tailrace.server.generation import Generation
from tailrace.server.packed_entries import PackedEntries
from tailrace.server.streaming import cancelled_on_disconnect

#: A token of a tracked choice, with its log probabilities where the request has those.
TrackedToken = tuple[int, TokenLogprobs | None]

_LOGPROBS = msgspec.msgpack.Decoder(TokenLogprob)
_TOKENS: msgspec.msgpack.Decoder[TrackedToken] = msgspec.msgpack.Decoder(TrackedToken)
#: Bytes of JSON for each byte of a packed log probability, about.
_JSON_PART = 3


@dataclass
class ToolCall:
    """One collected tool call."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class CollectedChoice:
    """One collected choice."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: PackedEntries[TokenLogprob] = field(default_factory=lambda: PackedEntries(_LOGPROBS))
    finish_reason: FinishReason = "stop"
    stop: str | None = None  #: the stop string that ended it
    tokens: PackedEntries[TrackedToken] = field(default_factory=lambda: PackedEntries(_TOKENS))  #: if tracked

    @property
    def size(self) -> int:
        """About how many bytes its JSON has."""
        text = len(self.text) + len(self.reasoning) + sum(len(call.arguments) for call in self.tool_calls)
        return text + _JSON_PART * (self.logprobs.size + self.tokens.size)


@dataclass
class CollectedReply:
    """All choices, by number, and the usage. ``complete`` is False when the client went away first.

    It is a generation's ``EventSink``.
    """

    replies: list[CollectedChoice]
    usage: Usage | None = None
    error: RequestError | None = None

    @property
    def complete(self) -> bool:
        return self.usage is not None

    @property
    def size(self) -> int:
        """About how many bytes its JSON has."""
        return sum(reply.size for reply in self.replies)

    def emit(self, event: Event) -> None:
        """See ``EventSink``."""
        if isinstance(event, TextDelta):
            reply = self.replies[event.choice]
            reply.text += event.text
            reply.logprobs.extend(event.logprobs or ())
            reply.tokens.extend(event.tokens or ())
        elif isinstance(event, ReasoningDelta):
            self.replies[event.choice].reasoning += event.text
        elif isinstance(event, ToolCallDelta):
            _add_call(self.replies[event.choice], event)
        elif isinstance(event, Finish):
            reply = self.replies[event.choice]
            reply.finish_reason, reply.stop = event.reason, event.stop
        elif isinstance(event, Usage):
            self.usage = event
        elif isinstance(event, Failure):
            self.error = event.error

    def tick(self, seconds: float) -> None:
        """See ``EventSink``: the client gets nothing before the end."""


async def collect_reply(generation: Generation, choices: int, receive: Receive) -> CollectedReply:
    """Wait for the end. Raises the RequestError of a failure."""
    transcript = CollectedReply([CollectedChoice() for _ in range(choices)])
    async with cancelled_on_disconnect(generation, receive):
        generation.attach(transcript)
        await generation.finished()
    if transcript.error is not None:
        raise transcript.error
    return transcript


def _add_call(reply: CollectedChoice, event: ToolCallDelta) -> None:
    if event.id is not None and event.name is not None:
        reply.tool_calls.append(ToolCall(event.id, event.name))
    reply.tool_calls[event.index].arguments += event.arguments
