"""What the ingress has to know of the dialects: which one a path has, and what it sends by itself in each.

That are errors, signs of life while a request waits for a replica, and the end of a stream whose replica is lost. All
other bytes are a replica's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.server import ndjson, sse
from tailrace.server.dialects.anthropic.errors import ERRORS as ANTHROPIC_ERRORS
from tailrace.server.dialects.anthropic.errors import error_object as anthropic_error
from tailrace.server.dialects.llama_server.errors import ERRORS as LLAMA_ERRORS
from tailrace.server.dialects.llama_server.errors import error_object as llama_error
from tailrace.server.dialects.ollama.reply import ERRORS as OLLAMA_ERRORS
from tailrace.server.dialects.ollama.reply import OllamaError
from tailrace.server.endpoint import OPENAI_ERRORS, ErrorFormat
from tailrace.server.json_response import error_envelope

#: The header that has the lists of models answered in Anthropic's dialect.
_ANTHROPIC_VERSION = b"anthropic-version"
_CHUNK_TYPES = {"/chat/completions": "chat.completion.chunk", "/completions": "text_completion"}


@dataclass
class StreamFacts:
    """What is known of one stream. ``first`` and ``last`` are the bodies' pieces that were relayed first and last."""

    path: str  #: canonical
    model: str
    request_id: str
    comments: bool  #: the setting ``keepalive_style``
    first: bytes = b""
    last: bytes = b""


Pieces = Callable[[StreamFacts], bytes]
Failure = Callable[[StreamFacts, RequestError], Sequence[bytes]]


@dataclass(frozen=True)
class Dialect:
    """One dialect. ``failure`` makes the pieces that end a stream with an error."""

    errors: ErrorFormat
    keep_alive: Pieces
    failure: Failure
    headers: Sequence[tuple[bytes, bytes]] = tuple(sse.HEADERS)  #: of a stream


def dialect_of(path: str, headers: dict[bytes, bytes]) -> Dialect:
    """The dialect of a canonical path. Paths that no route has get the errors of their neighbours'."""
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    if first == "models" and _ANTHROPIC_VERSION in headers:
        return ANTHROPIC
    if path in ("/models/load", "/models/unload"):
        return LLAMA
    return _BY_SEGMENT.get(first, OPENAI)


# OpenAI


def _openai_keep_alive(facts: StreamFacts) -> bytes:
    """An empty delta, which every client counts as an event, or a comment where that was chosen."""
    return sse.COMMENT if facts.comments else _openai_text(facts, "")


def _openai_failure(facts: StreamFacts, error: RequestError) -> Sequence[bytes]:
    """The error as text, because some clients show text alone; then as an error object."""
    return _openai_text(facts, f"\n\n[error: {error.message}]"), sse.event(msgspec.json.encode(error_envelope(error)))


def _openai_text(facts: StreamFacts, text: str) -> bytes:
    """A chunk with this text, as those of the stream are."""
    known = _first_event(facts)
    kind = _CHUNK_TYPES.get(facts.path, "chat.completion.chunk")
    is_chat = kind == "chat.completion.chunk"
    delta = {"delta": {"content": text}} if is_chat else {"text": text}
    chunk = {
        "id": known.get("id", facts.request_id),
        "object": kind,
        "created": known.get("created", int(time.time())),
        "model": known.get("model", facts.model),
        "choices": [{"index": 0, **delta, "finish_reason": None}],
    }
    return sse.event(msgspec.json.encode(chunk))


def _first_event(facts: StreamFacts) -> dict[str, Any]:
    """The object of the first event that was relayed; empty where there was none."""
    for line in facts.first.split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                found = msgspec.json.decode(line[6:])
            except msgspec.DecodeError:
                return {}
            return found if isinstance(found, dict) else {}
    return {}


# Responses


def _comment(facts: StreamFacts) -> bytes:
    return sse.COMMENT


def _responses_failure(facts: StreamFacts, error: RequestError) -> Sequence[bytes]:
    """An ``error`` event and, where the response is known, its end as ``response.failed``."""
    _, found, tail = facts.last.rpartition(b'"sequence_number":')
    digits = tail[: len(tail) - len(tail.lstrip(b"0123456789"))]
    number = int(digits) + 1 if found and digits else 0
    flat = {"code": error.code, "message": error.message, "param": error.param}
    body = {"type": "error", **flat, "error": {"type": error.type, **flat}, "sequence_number": number}
    pieces = [sse.named("error", msgspec.json.encode(body))]
    response = _first_event(facts).get("response")
    if isinstance(response, dict):
        failed = {**response, "status": "failed", "error": {"code": "server_error", "message": error.message}}
        end = {"type": "response.failed", "response": failed, "sequence_number": number + 1}
        pieces.append(sse.named("response.failed", msgspec.json.encode(end)))
    return pieces


# Anthropic


def _ping(facts: StreamFacts) -> bytes:
    return sse.named("ping", b'{"type": "ping"}')


def _anthropic_failure(facts: StreamFacts, error: RequestError) -> Sequence[bytes]:
    return (sse.named("error", msgspec.json.encode(anthropic_error(error, facts.request_id))),)


# Ollama


def _ollama_keep_alive(facts: StreamFacts) -> bytes:
    """A line without text."""
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    empty = {"message": {"role": "assistant", "content": ""}} if facts.path == "/api/chat" else {"response": ""}
    return ndjson.line({"model": facts.model, "created_at": made, **empty, "done": False})


def _ollama_failure(facts: StreamFacts, error: RequestError) -> Sequence[bytes]:
    return (ndjson.line(OllamaError(error.message)),)


# llama-server


def _llama_failure(facts: StreamFacts, error: RequestError) -> Sequence[bytes]:
    return (sse.event(msgspec.json.encode(llama_error(error))),)


OPENAI = Dialect(OPENAI_ERRORS, _openai_keep_alive, _openai_failure)
RESPONSES = Dialect(OPENAI_ERRORS, _comment, _responses_failure)
ANTHROPIC = Dialect(ANTHROPIC_ERRORS, _ping, _anthropic_failure)
OLLAMA = Dialect(OLLAMA_ERRORS, _ollama_keep_alive, _ollama_failure, headers=tuple(ndjson.HEADERS))
LLAMA = Dialect(LLAMA_ERRORS, _comment, _llama_failure)
_BY_SEGMENT = {
    "api": OLLAMA,
    "messages": ANTHROPIC,
    "responses": RESPONSES,
    "conversations": RESPONSES,
    **dict.fromkeys(("completion", "infill", "embedding", "props", "slots", "lora-adapters"), LLAMA),
}
