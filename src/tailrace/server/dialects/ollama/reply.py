"""Replies of Ollama's chat and generate: lines of a stream, complete replies, durations, errors.

A line is ``{"model", "created_at", ..., "done"}``; the ``ReplyShape`` of each request has the fields in the middle. The
last line has ``"done": true``, the reason and the counts.
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
    """The body of a failed request, and the last line of a failed stream."""

    error: str


def _respond(error: RequestError, identity: str) -> Response:
    return json_response(OllamaError(error.message), error.status)


ERRORS = ErrorFormat(_respond, OllamaError)


class Stopwatch:
    """Measures the parts of a request's time, by the monotonic clock. It starts with the request."""

    def __init__(self) -> None:
        self._started = self._loaded = time.monotonic()
        self._generation: Generation | None = None

    def loaded(self) -> None:
        """The engine is ready: the time until now was for loading."""
        self._loaded = time.monotonic()

    def follow(self, generation: Generation) -> None:
        """From now on ``generation`` knows when the first token came."""
        self._generation = generation

    def counts(self, used: Usage) -> dict[str, int]:
        """Ollama's counts and durations at the end, in nanoseconds. The prompt's time includes the queue and ends with
        the first token; the decode time follows.
        """
        now = time.monotonic()
        first = self._generation.first_token_at if self._generation is not None else None
        first = now if first is None else first
        return {
            "total_duration": _nanoseconds(now - self._started),
            "load_duration": _nanoseconds(self._loaded - self._started),
            "prompt_eval_count": used.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(first - self._loaded),
            "eval_count": used.completion_tokens,
            "eval_duration": _nanoseconds(now - first),
        }

    def reading(self, tokens: int) -> dict[str, int]:
        """The counts of an embedding request."""
        counts = self.counts(Usage(tokens, 0, 0))
        return {name: counts[name] for name in ("total_duration", "load_duration", "prompt_eval_count")}

    def zero_counts(self) -> dict[str, int]:
        """The counts of a request that only loads the model."""
        return {**dict.fromkeys(self.counts(Usage(0, 0, 0)), 0), "total_duration": _nanoseconds(_since(self._started))}


def now() -> datetime:
    """The time, as msgspec writes it by RFC 3339."""
    return datetime.now(UTC)


def _since(begun: float) -> float:
    return time.monotonic() - begun


def _nanoseconds(seconds: float) -> int:
    # At least one: clients divide counts by durations.
    return max(1, round(seconds * 1e9))


@dataclass(frozen=True)
class ReplyShape:
    """The shape of a reply's object: ``fields`` makes its fields from text, reasoning and tool call objects.

    ``before`` and ``after`` are the bytes around a plain text: most lines are that."""

    fields: Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]
    before: bytes
    after: bytes


@dataclass
class ReplyHead:
    """The constant fields of a reply. With ``includes_context`` the last object has the ``context``: the tokens of
    prompt and reply.
    """

    model: str
    watch: Stopwatch
    form: ReplyShape
    includes_context: bool = False
    _generation: Generation | None = None

    def follow(self, generation: Generation) -> None:
        """``generation`` makes the reply."""
        self.watch.follow(generation)
        self._generation = generation

    def object(self, text: str = "", reasoning: str = "", calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """One object that isn't the last."""
        return {
            "model": self.model,
            "created_at": now(),
            **self.form.fields(text, reasoning, calls or []),
            "done": False,
        }

    def last(self, reason: str, counts: dict[str, int], **parts: Any) -> dict[str, Any]:
        """The last object; ``parts`` are the arguments of ``object``."""
        last = {**self.object(**parts), "done": True, "done_reason": reason, **counts}
        if self.includes_context and self._generation is not None and self._generation.shifted is not None:
            last["context"] = self._generation.shifted.tokens
        return last


def reply_object(head: ReplyHead, transcript: CollectedReply) -> dict[str, Any]:
    """The one object for a client that doesn't stream."""
    assert transcript.usage is not None, "the reply is complete"
    (reply,) = transcript.replies
    text, calls = _text_and_calls(reply)
    body = head.last(
        _reason(reply.finish_reason),
        head.watch.counts(transcript.usage),
        text=text,
        reasoning=reply.reasoning,
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
        """One line; none for a call's fragments, and for the finish, which is part of the last line."""
        if isinstance(event, TextDelta):
            if event.logprobs is None:
                return [*self._called(), self._text(event.text)]
            logprobs = [_logprob(entry) for entry in event.logprobs]
            return [*self._called(), ndjson.line({**self._head.object(event.text), "logprobs": logprobs})]
        if isinstance(event, ReasoningDelta):
            return [*self._called(), ndjson.line(self._head.object(reasoning=event.text))]
        if isinstance(event, ToolCallDelta):
            return self._fragment(event)
        if isinstance(event, Finish):
            self._reason = _reason(event.reason)
            return self._called()
        if isinstance(event, Usage):
            return [ndjson.line(self._head.last(self._reason, self._head.watch.counts(event)))]
        if isinstance(event, KeepAlive):
            return [self._text("")]
        assert isinstance(event, Failure), "this dialect has no progress events"
        return [ndjson.line(OllamaError(event.error.message))]

    def end(self) -> bytes:
        """See ``Encoder``: the last line is sent with the usage."""
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
        """The line of the completed call, if there is one: Ollama's clients expect whole calls."""
        if self._call is None:
            return []
        call, self._call = self._call, None
        fields = _call(self._calls, call)
        if fields is None:
            return [self._text(_cut(call))]
        self._calls += 1
        return [ndjson.line(self._head.object(calls=[fields]))]


def _text_and_calls(reply: CollectedChoice) -> tuple[str, list[dict[str, Any]]]:
    text = reply.text
    calls: list[dict[str, Any]] = []
    for call in reply.tool_calls:
        fields = _call(len(calls), call)
        if fields is None:
            text += _cut(call)
        else:
            calls.append(fields)
    return text, calls


def _call(index: int, call: ToolCall) -> dict[str, Any] | None:
    """The call's object; None when the reply's limit has cut its arguments off."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        return None
    return {"id": call.id, "function": {"index": index, "name": call.name, "arguments": arguments}}


def _cut(call: ToolCall) -> str:
    """A truncated call as text."""
    return f'{{"name": {msgspec.json.encode(call.name).decode()}, "arguments": {call.arguments}'


def _reason(reason: FinishReason) -> str:
    """Ollama knows ``stop`` and ``length``: a reply that ends with calls has stopped."""
    return "length" if reason == "length" else "stop"


def _logprob(entry: TokenLogprob) -> dict[str, Any]:
    fields: dict[str, Any] = {"token": entry.text, "logprob": entry.logprob, "bytes": list(entry.raw)}
    if entry.top:
        fields["top_logprobs"] = [
            {"token": text, "logprob": value, "bytes": list(raw)} for text, raw, value in entry.top
        ]
    return fields
