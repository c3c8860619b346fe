"""The dialects that are checked: each one's route, its smallest request, and how its replies and errors are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tailrace.conformance.connection import Response
from tailrace.conformance.target import Target

Json = dict[str, Any]


@dataclass(frozen=True)
class Dialect:
    """One API.

    ``request_body`` makes a request's body from (model, text, max tokens). ``reply_text`` finds a reply's text; None
    means that the reply hasn't the dialect's shape. ``error_fault`` says what is wrong with an error's body.
    """

    name: str
    route: str  #: below the base URL, or below the server's root when it begins with ``/api`` or ``/v1``
    request_body: Callable[[str, str, int], Json]
    reply_text: Callable[[Any], str | None]
    error_fault: Callable[[Any], str | None]
    can_stream: bool = True
    by_model: bool = False  #: the server has it for some models alone: whether it is there shows in a valid request
    media_type: str = "text/event-stream"

    def path(self, target: Target) -> str:
        """The path of the main route on that server."""
        base = target.root if self.route.startswith(("/api", "/v1")) else target.api
        return base + self.route

    def headers(self, key: str | None) -> dict[str, str]:
        """The headers of every request."""
        if self.name == "anthropic":
            return {"anthropic-version": "2023-06-01", **({"x-api-key": key} if key else {})}
        return {"Authorization": f"Bearer {key}"} if key else {}

    def streamed(self, body: Json) -> Json:
        """The same request with a streamed reply."""
        return body | {"stream": True}

    def reports_unknown_model(self, reply: Response) -> bool:
        """Whether a 404 means the model and not the route."""
        return reply.status == 404 and b"model" in reply.body.lower()


def find(value: Any, *path: str | int) -> Any:
    """The value at a path of keys and indexes, None where there is none."""
    for key in path:
        if isinstance(key, int):
            value = value[key] if isinstance(value, list) and -len(value) <= key < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _openai_fault(body: Any) -> str | None:
    error = find(body, "error")
    if not isinstance(error, dict):
        return "the body is no object with an object `error`"
    for name in ("message", "type"):
        if not isinstance(error.get(name), str) or not error[name]:
            return f"`error.{name}` is {error.get(name)!r} instead of a string that says something"
    for name in ("param", "code"):
        if error.get(name) is not None and not isinstance(error[name], str):
            return f"`error.{name}` is {error[name]!r} instead of a string or null"
    return None


def _anthropic_fault(body: Any) -> str | None:
    if find(body, "type") != "error":
        return f"`type` is {find(body, 'type')!r} instead of 'error'"
    for name in ("type", "message"):
        if not _string(find(body, "error", name)):
            return f"`error.{name}` is {find(body, 'error', name)!r} instead of a string that says something"
    return None


def _ollama_fault(body: Any) -> str | None:
    error = find(body, "error")
    return None if isinstance(error, str) and error else f"`error` is {error!r} instead of a string that says something"


def _chat(model: str, text: str, limit: int) -> Json:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": limit, "temperature": 0}


def _completion(model: str, text: str, limit: int) -> Json:
    return {"model": model, "prompt": text, "max_tokens": limit, "temperature": 0}


def _embedding(model: str, text: str, limit: int) -> Json:
    return {"model": model, "input": text}


def _rerank(model: str, text: str, limit: int) -> Json:
    return {"model": model, "query": text, "documents": ["The sea is wide.", "A pump fills tyres."]}


def _response(model: str, text: str, limit: int) -> Json:
    return {"model": model, "input": text, "max_output_tokens": max(16, limit), "temperature": 0}


def _ollama(model: str, text: str, limit: int) -> Json:
    messages = [{"role": "user", "content": text}]
    return {
        "model": model,
        "messages": messages,
        "stream": False,
        "options": {"num_predict": limit, "temperature": 0},
    }


def _chat_text(body: Any) -> str | None:
    return _string(find(body, "choices", 0, "message", "content"))


def _response_text(body: Any) -> str | None:
    output = find(body, "output")
    if not isinstance(output, list):
        return None
    return _joined(part for item in output for part in find(item, "content") or [])


def _anthropic_text(body: Any) -> str | None:
    content = find(body, "content")
    return _joined(content) if isinstance(content, list) else None


def _joined(parts: Any) -> str:
    return "".join(find(part, "text") or "" for part in parts)


def _embedding_text(body: Any) -> str | None:
    return "" if find(body, "data", 0, "embedding") is not None else None


def _rerank_text(body: Any) -> str | None:
    return "" if find(body, "results", 0, "relevance_score") is not None else None


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("openai", "/chat/completions", _chat, _chat_text, _openai_fault),
        Dialect(
            "completions",
            "/completions",
            _completion,
            lambda body: _string(find(body, "choices", 0, "text")),
            _openai_fault,
        ),
        Dialect("embeddings", "/embeddings", _embedding, _embedding_text, _openai_fault, can_stream=False),
        Dialect("rerank", "/rerank", _rerank, _rerank_text, _openai_fault, can_stream=False, by_model=True),
        Dialect("responses", "/responses", _response, _response_text, _openai_fault),
        Dialect("anthropic", "/v1/messages", _chat, _anthropic_text, _anthropic_fault),
        Dialect(
            "ollama",
            "/api/chat",
            _ollama,
            lambda body: _string(find(body, "message", "content")),
            _ollama_fault,
            media_type="application/x-ndjson",
        ),
    )
}

OPENAI = DIALECTS["openai"]
COMPLETIONS = DIALECTS["completions"]
EMBEDDINGS = DIALECTS["embeddings"]
RERANK = DIALECTS["rerank"]
RESPONSES = DIALECTS["responses"]
ANTHROPIC = DIALECTS["anthropic"]
OLLAMA = DIALECTS["ollama"]
