"""Anthropic's message: the whole one for clients that don't stream, and its parts that a stream needs too."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from tailrace.server.collected_reply import CollectedChoice, CollectedReply
from tailrace.server.events import FinishReason, Usage

#: The signature of reasoning. Anthropic's proves the origin; this server ignores it, but clients drop reasoning without
#: a signature.
SIGNATURE = "unsigned"

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class MessageHead:
    """The fields of a message that are known before its first token."""

    __slots__ = ("id", "model")

    def __init__(self, model: str) -> None:
        self.id = f"msg_{secrets.token_hex(12)}"
        self.model = model

    def message(
        self, content: list[dict[str, Any]], ending: dict[str, str | None], usage: dict[str, Any]
    ) -> dict[str, Any]:
        """The message."""
        head = {"id": self.id, "type": "message", "role": "assistant", "model": self.model}
        return {**head, "content": content, **ending, "usage": usage}


def ending_object(reason: FinishReason | None, stop: str | None) -> dict[str, str | None]:
    """Why the reply has ended, and by which stop sequence; two nulls (None) while it hasn't."""
    if reason is None:
        return {"stop_reason": None, "stop_sequence": None}
    if reason == "stop" and stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": _STOP_REASONS[reason], "stop_sequence": None}


def usage_object(used: Usage, *, split: bool = False) -> dict[str, Any]:
    """Anthropic's usage. With ``split`` cached prompt tokens are counted separately. Without it all are
    ``input_tokens``, because clients that mark no cache breakpoints show that number alone.
    """
    cached = used.cached_tokens if split else 0
    return {
        "input_tokens": used.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"thinking_tokens": used.reasoning_tokens},
    }


def call_id(identity: str) -> str:
    """A tool call's id as Anthropic's begin."""
    return f"toolu_{identity.removeprefix('call_')}"


def text_block(text: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": text}


def message_object(
    head: MessageHead, transcript: CollectedReply, *, hides_reasoning: bool, split_usage: bool = False
) -> dict[str, Any]:
    """The message of a complete transcript. For ``split_usage`` see ``usage_object``."""
    assert transcript.usage is not None, "the reply is complete"
    (reply,) = transcript.replies
    usage = usage_object(transcript.usage, split=split_usage)
    return head.message(_content(reply, hides_reasoning), ending_object(reply.finish_reason, reply.stop), usage)


def _content(reply: CollectedChoice, hides_reasoning: bool) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    if reply.reasoning:
        text = "" if hides_reasoning else reply.reasoning
        content.append({"type": "thinking", "thinking": text, "signature": SIGNATURE})
    if reply.text:
        content.append(text_block(reply.text))
    content += [
        {"type": "tool_use", "id": call_id(call.id), "name": call.name, "input": _input(call.arguments)}
        for call in reply.tool_calls
    ]
    # An empty reply is a text too: clients look at the first block.
    return content or [text_block("")]


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments; empty when ``max_tokens`` truncated them, as the stop reason shows."""
    try:
        return msgspec.json.decode(arguments, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}
