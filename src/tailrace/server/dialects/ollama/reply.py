"""Replies of Ollama's two generating requests: lines of a stream, whole replies, durations, errors.

A line is ``{"model", "created_at", ..., "done"}``; what stands in the middle is a ``Form``, which each request has its
own of. The last line is the one with ``"done": true``, its reason and the counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from tailrace.errors import RequestError
from tailrace.server import ndjson
from tailrace.server.collected_reply import CollectedChoice, CollectedReply, ToolCall
from tailrace.server.endpoint import ErrorFormat
from tailrace.server.events import (
    Event,
    Failure,
    Finish,
    FinishReason,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from tailrace.server.generation import Generation
from tailrace.server.json_response import json_response


class OllamaError(msgspec.Struct, frozen=True):
    """What a failed request's body is, and the last line of a stream that broke."""

    error: str


def _respond(error: RequestError, identity: str) -> Response:
    return json_response(OllamaError(error.message), error.status)


ERRORS = ErrorFormat(_respond, OllamaError)


class Stopwatch:
    """What a request's time went into, all by the monotonic clock. Started when the request comes in."""

    def __init__(self) -> None:
        self._begun = self._loaded = time.monotonic()
        self._generation: Generation | None = None

    def loaded(self) -> None:
        """The engine is there: what has passed was for waiting until the model was loaded."""
        self._loaded = time.monotonic()

    def follow(self, generation: Generation) -> None:
        """From now on ``generation`` knows when the first token came."""
        self._generation = generation

    def counts(self, used: Usage) -> dict[str, int]:
        """Ollama's counts and durations at the end, in nanoseconds. The prompt's time ends with the first token and
        has the time in the queue in it; decoding is what came after the first token.
        """
        now = time.monotonic()
        first = self._generation.first_token_at if self._generation is not None else None
        first = now if first is None else first
        return {
            "total_duration": _nanoseconds(now - self._begun),
            "load_duration": _nanoseconds(self._loaded - self._begun),
            "prompt_eval_count": used.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(first - self._loaded),
            "eval_count": used.completion_tokens,
            "eval_duration": _nanoseconds(now - first),
        }

    def reading(self, tokens: int) -> dict[str, int]:
        """The counts of a request whose texts were only read."""
        counts = self.counts(Usage(tokens, 0, 0))
        return {name: counts[name] for name in ("total_duration", "load_duration", "prompt_eval_count")}

    def nothing(self) -> dict[str, int]:
        """The counts of a request that only wanted the model to be loaded."""
        return {**dict.fromkeys(self.counts(Usage(0, 0, 0)), 0), "total_duration": _nanoseconds(_since(self._begun))}


def now() -> datetime:
    """The time, as msgspec writes it by RFC 3339."""
    return datetime.now(UTC)


def _since(begun: float) -> float:
    return time.monotonic() - begun


def _nanoseconds(seconds: float) -> int:
    # At least one: clients divide counts by durations.
    return max(1, round(seconds * 1e9))


@dataclass(frozen=True)
class Form:
    """How a reply's parts stand in an object: of a text, a thought and the tool calls' objects it makes the fields.

    ``before`` and ``after`` are the bytes around a text alone, for the line that most tokens are.
    """

    fields: Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]
    before: bytes
    after: bytes


@dataclass
class ReplyHead:
    """What belongs to a reply whatever is in it. With ``remembers`` its last object has the ``context``: the tokens of
    prompt and reply.
    """

    model: str
    watch: Stopwatch
    form: Form
    remembers: bool = False
    _generation: Generation | None = None

    def follow(self, generation: Generation) -> None:
        """``generation`` makes the reply."""
        self.watch.follow(generation)
        self._generation = generation

    def object(self, text: str = "", thought: str = "", calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """One object that isn't the last."""
        return {
            "model": self.model,
            "created_at": now(),
            **self.form.fields(text, thought, calls or []),
            "done": False,
        }

    def last(self, reason: str, counts: dict[str, int], **parts: Any) -> dict[str, Any]:
        """The last object, with what ``object`` takes."""
        last = {**self.object(**parts), "done": True, "done_reason": reason, **counts}
        if self.remembers and self._generation is not None and self._generation.windowed is not None:
            last["context"] = self._generation.windowed.tokens
        return last


def whole(head: ReplyHead, transcript: CollectedReply) -> dict[str, Any]:
    """The one object for a client that doesn't stream."""
    assert transcript.usage is not None, "only a complete transcript is told"
    (reply,) = transcript.replies
    text, calls = _whole_calls(reply)
    body = head.last(
        _reason(reply.finish_reason),
        head.watch.counts(transcript.usage),
        text=text,
        thought=reply.reasoning,
        calls=calls,
    )
    if reply.logprobs:
        body["logprobs"] = [_logprob(entry) for entry in reply.logprobs]
    return body


class ReplyStream:
    """Encodes a stream. See ``Encoder``."""

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._prefix = b'{"model":' + msgspec.json.encode(head.model) + b',"created_at":'
        self._before = b"," + head.form.before
        self._after = head.form.after + b',"done":false}\n'
        self._calls = 0  #: that were sent
        self._call: ToolCall | None = None  #: the one that is coming in
        self._reason = "stop"

    def start(self) -> list[bytes]:
        """An empty text: a sign of life before the first token."""
        return [self._text("")]

    def encode(self, event: Event) -> list[bytes]:
        """One line, except for a call's fragments and the finish (none: the last line tells it)."""
        if isinstance(event, TextDelta):
            if event.logprobs is None:
                return [*self._called(), self._text(event.text)]
            logprobs = [_logprob(entry) for entry in event.logprobs]
            return [*self._called(), ndjson.line({**self._head.object(event.text), "logprobs": logprobs})]
        if isinstance(event, ReasoningDelta):
            return [*self._called(), ndjson.line(self._head.object(thought=event.text))]
        if isinstance(event, ToolCallDelta):
            return self._fragment(event)
        if isinstance(event, Finish):
            self._reason = _reason(event.reason)
            return self._called()
        if isinstance(event, Usage):
            return [ndjson.line(self._head.last(self._reason, self._head.watch.counts(event)))]
        if isinstance(event, KeepAlive):
            return [self._text("")]
        assert isinstance(event, Failure), "the prompt's progress isn't asked for here"
        return [ndjson.line(OllamaError(event.error.message))]

    def end(self) -> bytes:
        """See ``Encoder``: the last line is told with the usage."""
        return b""

    def _text(self, text: str) -> bytes:
        return b"".join(
            (
                self._prefix,
                msgspec.json.encode(now()),
                self._before,
                msgspec.json.encode(text),
                self._after,
            )
        )

    def _fragment(self, event: ToolCallDelta) -> list[bytes]:
        lines: list[bytes] = []
        if event.id is not None and event.name is not None:
            lines = self._called()
            self._call = ToolCall(event.id, event.name)
        assert self._call is not None, "a call begins with its name"
        self._call.arguments += event.arguments
        return lines

    def _called(self) -> list[bytes]:
        """The line of the call that has come in, if one has: Ollama's clients want it whole."""
        if self._call is None:
            return []
        call, self._call = self._call, None
        told = _call(self._calls, call)
        if told is None:
            return [self._text(_cut(call))]
        self._calls += 1
        return [ndjson.line(self._head.object(calls=[told]))]


def _whole_calls(reply: CollectedChoice) -> tuple[str, list[dict[str, Any]]]:
    text = reply.text
    calls: list[dict[str, Any]] = []
    for call in reply.tool_calls:
        told = _call(len(calls), call)
        if told is None:
            text += _cut(call)
        else:
            calls.append(told)
    return text, calls


def _call(index: int, call: ToolCall) -> dict[str, Any] | None:
    """The call's object; None when the reply's limit has cut its arguments off."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


def _cut(call: ToolCall) -> str:
    """What there is of a call that was cut off, as the text that it then is."""
    return f'{{"name": {msgspec.json.encode(call.name).decode()}, "arguments": {call.arguments}'


def _reason(reason: FinishReason) -> str:
    """Ollama knows ``stop`` and ``length``: a reply that ends with calls has stopped."""
    return "length" if reason == "length" else "stop"


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    told: dict[str, Any] = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.raw)}
    if entry.top:
        told["top_logprobs"] = [{"token": text, "logprob": value, "bytes": list(raw)} for text, raw, value in entry.top]
    return told
