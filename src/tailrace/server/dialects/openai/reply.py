"""What the replies of OpenAI's two text dialects have in common: the head, the usage, how a stream ends."""

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
    """What every chunk of a reply, or the one body, has in common. ``prefix`` begins the id (``chatcmpl``,
    ``cmpl``).
    """

    __slots__ = ("created", "fingerprint", "id", "model")

    def __init__(self, prefix: str, model: str, fingerprint: str | None = None) -> None:
        """``fingerprint`` is what ``Server.fingerprint`` gives; None leaves it out."""
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
    """OpenAI's usage. What a reply's tokens were is told where there was something to tell."""
    told: dict[str, Any] = {
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
        told["completion_tokens_details"] = details
    return told


def logprob_object(entry: TokenLogprob) -> dict[str, Any]:
    """A token's log probability, and those of the likeliest in its place."""
    return {
        "token": entry.text,
        "logprob": entry.logprob,
        "bytes": list(entry.raw),
        "top_logprobs": [{"token": text, "logprob": value, "bytes": list(raw)} for text, raw, value in entry.top],
    }


def completion_object(
    head: ReplyHead, kind: str, transcript: CollectedReply, whole: Callable[[int, CollectedChoice], dict[str, Any]]
) -> dict[str, Any]:
    """The body for a client that doesn't stream; ``whole`` makes a choice's object of its number and reply."""
    assert transcript.usage is not None, "only a complete transcript is told"
    return {
        **head.fields(kind),
        "choices": [whole(index, reply) for index, reply in enumerate(transcript.replies)],
        "usage": usage_object(transcript.usage),
    }


class StreamEnds:
    """The parts of a stream that are the same in both dialects: chunks around choices, usage, failure and the end.

    ``prefix`` is everything of a chunk before its choices; ``text_chunk`` makes the chunk that shows a text in a
    choice. What belongs to no choice is shown in the first that still runs, because a choice's final chunk is its last.
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
        """A chunk of its own without choices, if it was asked for: relays drop a finish that shares one with usage."""
        if not self._wants_usage:
            return []
        return [self._prefix + b'],"usage":' + msgspec.json.encode(usage_object(used)) + b"}\n\n"]

    def keep_alive(self) -> list[bytes]:
        """An empty delta, which every client counts as an event, or a comment where that was chosen."""
        return [sse.COMMENT if self._comments else self._text_chunk(self._running[0], "")]

    def failure(self, error: RequestError) -> list[bytes]:
        """Shown as text first, because some clients show nothing else; then as an error for those that look for one."""
        self._failed = True
        return [
            self._text_chunk(self._running[0], f"\n\n[error: {error.message}]"),
            sse.event(msgspec.json.encode(error_envelope(error))),
        ]

    def end(self) -> bytes:
        """``[DONE]``; nothing after a failure."""
        return b"" if self._failed else sse.DONE


def chunk_prefix(head: ReplyHead, kind: str) -> bytes:
    """Everything of a chunk's event before its choices."""
    return b"data: " + msgspec.json.encode(head.fields(kind))[:-1] + b',"choices":['
