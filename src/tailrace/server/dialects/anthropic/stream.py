"""Anthropic's stream: a message's blocks one after the other, in events that have names."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from tailrace.errors import RequestError
from tailrace.server import sse
from tailrace.server.dialects.anthropic.errors import error_object
from tailrace.server.dialects.anthropic.reply import (
    SIGNATURE,
    MessageHead,
    call_id,
    ending_object,
    text_block,
    usage_object,
)
from tailrace.server.events import (
    Event,
    Failure,
    Finish,
    KeepAlive,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)

_PING = sse.named("ping", b'{"type": "ping"}')

Kind = Literal["text", "thinking", "tool_use"]


class MessageStream:
    """Encodes a message's stream. See ``Encoder``.

    ``message_delta`` is sent with the usage, which follows the finish."""

    def __init__(self, head: MessageHead, request: str, prompt_tokens: int, *, hides_reasoning: bool) -> None:
        """``request`` is the request's id, ``prompt_tokens`` the engine's count."""
        self._head = head
        self._request = request
        self._prompt_tokens = prompt_tokens
        self._hides_thinking = hides_reasoning
        self._index = -1  #: of the last block
        self._open: Kind | None = None  #: the type of the open block
        self._before_text = b""  #: the constant part of a text event, made once for a block
        self._finish: Finish | None = None
        self._failed = False

    def start(self) -> list[bytes]:
        """An empty message. The number of cached tokens isn't known yet, so neither this event nor the last one counts
        them separately: some clients add up both.
        """
        usage = usage_object(Usage(self._prompt_tokens, 0, 0))
        message = self._head.message([], ending_object(None, None), usage)
        return [_event("message_start", {"message": message}), _PING]

    def encode(self, event: Event) -> list[bytes]:
        """The end of a block, the start of the next, and its delta."""
        if isinstance(event, TextDelta):
            started = [] if self._open == "text" else self._start_block("text", text_block(""))
            return [*started, self._before_text + msgspec.json.encode(event.text) + b"}}\n\n"]
        if isinstance(event, ReasoningDelta):
            return self._reasoning(event.text)
        if isinstance(event, ToolCallDelta):
            return self._call(event)
        if isinstance(event, Finish):
            self._finish = event
            started = self._start_block("text", text_block("")) if self._index < 0 else []
            return [*started, *self._end_block()]
        if isinstance(event, Usage):
            return [self._ending(event)]
        if isinstance(event, KeepAlive):
            return [_PING]
        assert isinstance(event, Failure), "this dialect has no progress events"
        return [self._failure(event.error)]

    def end(self) -> bytes:
        """``message_stop``; empty after a failure."""
        return b"" if self._failed else _event("message_stop", {})

    def _start_block(self, kind: Kind, block: dict[str, Any]) -> list[bytes]:
        ended = self._end_block()
        self._index += 1
        self._open = kind
        self._before_text = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"text_delta","text":' % self._index
        )
        return [*ended, _event("content_block_start", {"index": self._index, "content_block": block})]

    def _end_block(self) -> list[bytes]:
        if self._open is None:
            return []
        kind, self._open = self._open, None
        pieces = [self._delta("signature_delta", signature=SIGNATURE)] if kind == "thinking" else []
        return [*pieces, _event("content_block_stop", {"index": self._index})]

    def _reasoning(self, text: str) -> list[bytes]:
        pieces = []
        if self._open != "thinking":
            pieces = self._start_block("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if not self._hides_thinking:
            pieces.append(self._delta("thinking_delta", thinking=text))
        return pieces

    def _call(self, event: ToolCallDelta) -> list[bytes]:
        if event.id is None:
            return [self._delta("input_json_delta", partial_json=event.arguments)]
        block: dict[str, Any] = {"type": "tool_use", "id": call_id(event.id), "name": event.name, "input": {}}
        pieces = self._start_block("tool_use", block)
        return [*pieces, self._delta("input_json_delta", partial_json=event.arguments)]

    def _delta(self, kind: str, **fields: str) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": {"type": kind, **fields}})

    def _ending(self, used: Usage) -> bytes:
        assert self._finish is not None, "usage comes behind the finish"
        ending = ending_object(self._finish.reason, self._finish.stop)
        return _event("message_delta", {"delta": ending, "usage": usage_object(used)})

    def _failure(self, error: RequestError) -> bytes:
        self._failed = True
        return sse.named("error", msgspec.json.encode(error_object(error, self._request)))


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return sse.named(name, msgspec.json.encode({"type": name, **fields}))
