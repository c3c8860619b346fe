"""The shared parts of replies of chat and text completions: head, usage, and the end of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.server import sse
from tailrace.server.collected_reply import CollectedChoice, CollectedReply
from tailrace.server.events import TokenLogprob, Usage
from tailrace.server.json_response import error_envelope


class ReplyHead:
    """The fields of every chunk of a reply, or of its body. ``prefix`` begins the id (``chatcmpl``, ``cmpl``)."""

    __slots__ = ("created", "fingerprint", "id", "model")

    def __init__(self, prefix: str, model: str, fingerprint: str | None = None) -> None:
        """``fingerprint`` is ``AppState.fingerprint``; None leaves it out."""
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self.fingerprint = fingerprint

    def fields(self, kind: str) -> dict[str, Any]:
        """The fields, with ``kind`` as the object's name."""
        head: dict[str, Any] = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        if self.fingerprint is not None:
            head["system_fingerprint"] = self.fingerprint
        return head


def usage_object(used: Usage) -> dict[str, Any]:
    """OpenAI's usage. Details of the completion tokens are included where they aren't zero."""
    usage: dict[str, Any] = {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }
    details: dict[str, int] = {}
    if used.reasoning_tokens:
        details["reasoning_tokens"] = used.reasoning_tokens
    if used.accepted_tokens is not None and used.rejected_tokens is not None:
        details["accepted_prediction_tokens"] = used.accepted_tokens
        details["rejected_prediction_tokens"] = used.rejected_tokens
    if details:
        usage["completion_tokens_details"] = details
    return usage


def logprob_object(entry: TokenLogprob) -> dict[str, Any]:
    """A token's log probability, and those of the likeliest in its place."""
    return {
        "token": entry.text,
        "logprob": entry.logprob,
        "bytes": list(entry.raw),
        "top_logprobs": [{"token": text, "logprob": value, "bytes": list(raw)} for text, raw, value in entry.top],
    }


def completion_object(
    head: ReplyHead,
    kind: str,
    transcript: CollectedReply,
    choice_object: Callable[[int, CollectedChoice], dict[str, Any]],
) -> dict[str, Any]:
    """The body for a client that doesn't stream; ``choice_object`` makes a choice's object of its number and reply."""
    assert transcript.usage is not None, "the reply is complete"
    return {
        **head.fields(kind),
        "choices": [choice_object(index, reply) for index, reply in enumerate(transcript.replies)],
        "usage": usage_object(transcript.usage),
    }


class StreamEnds:
    """The parts of a stream that both dialects share: usage, keep-alives, failures and the end.

    ``prefix`` is a chunk up to its choices; ``text_chunk`` makes the chunk that shows a text in a choice. Text of no
    choice goes into the first choice that still runs, because a choice's final chunk must be its last.
    """

    def __init__(
        self,
        prefix: bytes,
        text_chunk: Callable[[int, str], bytes],
        choices: int,
        *,
        wants_usage: bool,
        comments: bool,
    ) -> None:
        self._prefix = prefix
        self._text_chunk = text_chunk
        self._running = list(range(choices))
        self._wants_usage = wants_usage
        self._comments = comments
        self._failed = False

    def finished(self, choice: int) -> None:
        """The choice's final chunk is on its way."""
        self._running.remove(choice)

    def usage(self, used: Usage) -> list[bytes]:
        """A chunk without choices, if requested: relays drop a finish reason that shares a chunk with usage."""
        if not self._wants_usage:
            return []
        return [self._prefix + b'],"usage":' + msgspec.json.encode(usage_object(used)) + b"}\n\n"]

    def keep_alive(self) -> list[bytes]:
        """An empty delta, which every client counts as an event, or a comment where that was chosen."""
        return [sse.COMMENT if self._comments else self._text_chunk(self._running[0], "")]

    def failure(self, error: RequestError) -> list[bytes]:
        """The error as text, because some clients show text alone; then as an error object."""
        self._failed = True
        return [
            self._text_chunk(self._running[0], f"\n\n[error: {error.message}]"),
            sse.event(msgspec.json.encode(error_envelope(error))),
        ]

    def end(self) -> bytes:
        """``[DONE]``; empty after a failure."""
        return b"" if self._failed else sse.DONE


def chunk_prefix(head: ReplyHead, kind: str) -> bytes:
    """Everything of a chunk's event before its choices."""
    return b"data: " + msgspec.json.encode(head.fields(kind))[:-1] + b',"choices":['
