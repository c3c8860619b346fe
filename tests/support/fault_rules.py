"""Registers faults: servers that break one rule of the checker, made of ``good_dialects`` with one change.

The modules ``*_faults`` register them; ``faults`` imports all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from model_server import Alter, Answer, Asked, Json, ModelServer

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/chat/completions", "/completions", "/embeddings", "/responses"
MESSAGES, OLLAMA, RERANK = "/messages", "/api/chat", "/rerank"


@dataclass(frozen=True)
class Fault:
    """A server that breaks ``rule``. ``limits`` are the checker's, where its own would take the test too long."""

    rule: str
    name: str
    alter: Alter
    keyed: bool = False
    limits: dict[str, float] = field(default_factory=dict)


FAULTS: list[Fault] = []
#: A prompt that makes the server wait before it speaks.
LONG = 64


def fault(rule: str, name: str, alter: Alter, *, keyed: bool = False, **limits: float) -> None:
    """Register a fault."""
    FAULTS.append(Fault(rule, name, alter, keyed, limits))


# Changes of requests and replies

Where = Callable[[Asked], bool]


def at(path: str) -> Where:
    """Requests to the route, however it is spelt."""

    def holds(asked: Asked) -> bool:
        spelt = asked.path.replace("//", "/").rstrip("/")
        other = path == COMPLETIONS and spelt.endswith(CHAT)
        return asked.method == "POST" and spelt.endswith(path) and not other

    return holds


def plain(path: str) -> Where:
    """The plain question there, streamed: short, without usage or tools."""

    def holds(asked: Asked) -> bool:
        body = asked.body or {}
        extra = {"stream_options", "tools", "instructions"} & set(body)
        return at(path)(asked) and asked.streams and not extra and "about the sea" in str(body) and "32" in str(body)

    return holds


def pieces(where: Where, change: Callable[[list[bytes]], list[bytes]]) -> Alter:
    """A stream's pieces are other ones."""

    def alter(server: ModelServer, asked: Asked, answer: Answer) -> None:
        if where(asked) and answer.pieces:
            answer.pieces = change(answer.pieces)

    return alter


def each(where: Where, change: Callable[[bytes], bytes]) -> Alter:
    """Each piece of a stream is another one."""
    return pieces(where, lambda found: [change(piece) for piece in found])


def objects(where: Where, change: Callable[[Json], Json | None]) -> Alter:
    """Each JSON object of a stream is another one, or (None) isn't there."""

    def one(piece: bytes) -> bytes:
        start, end = piece.find(b"{"), piece.rfind(b"}") + 1
        if start < 0:
            return piece
        changed = change(json.loads(piece[start:end]))
        if changed is None:
            return b""
        name = b"event: " + str(changed.get("type")).encode() + b"\ndata: "
        return (
            (name if b"event: " in piece else piece[:start])
            + json.dumps(changed, ensure_ascii=False).encode()
            + piece[end:]
        )

    return pieces(where, lambda found: [new for piece in found if (new := one(piece))])


def whole(where: Where, change: Callable[[Json], object]) -> Alter:
    """A body of JSON that isn't streamed is changed in place."""

    def alter(server: ModelServer, asked: Asked, answer: Answer) -> None:
        if where(asked) and answer.status == 200 and answer.pieces is None:
            body = answer.json()
            change(body)
            answer.say(body)

    return alter


def answer_if(where: Where, change: Callable[[Answer], object]) -> Alter:
    """The answer is changed in place."""

    def alter(server: ModelServer, asked: Asked, answer: Answer) -> None:
        if where(asked):
            change(answer)

    return alter


def refuse(where: Where, status: int = 400, text: str = "not taken here") -> Alter:
    """An error in OpenAI's form."""
    error = {"error": {"message": text, "type": "invalid_request_error", "param": None, "code": None}}
    return answer_if(where, lambda answer: answer.refuse(status, error))


def header(where: Where, name: str, value: str | None) -> Alter:
    """A header is another one, or (None) isn't there."""

    def change(answer: Answer) -> None:
        answer.headers.pop(name, None)
        if value is not None:
            answer.headers[name] = value

    return answer_if(where, change)


def streams(path: str) -> Where:
    """Requests for a stream of that route."""
    return lambda asked: at(path)(asked) and asked.streams


def has(path: str, holds: Callable[[Json], Any]) -> Where:
    """Requests there whose body is so."""
    return lambda asked: at(path)(asked) and isinstance(asked.body, dict) and bool(holds(asked.body))


def unstreamed(path: str) -> Where:
    """The plain question there, not streamed."""
    return lambda asked: (
        at(path)(asked)
        and not asked.streams
        and "about the sea" in str(asked.body)
        and "no-such" not in str(asked.body)
    )


def is_broken(path: str) -> Where:
    """The body that is no JSON."""
    return lambda asked: at(path)(asked) and asked.body is None


def put(target: Json, name: str, value: object) -> Json:
    """``target`` with that value."""
    target[name] = value
    return target


def without(target: Json, *names: str) -> Json:
    """``target`` without those names."""
    return {name: value for name, value in target.items() if name not in names}


def delta(change: Callable[[Json, Json], object]) -> Callable[[Json], Json]:
    """A chunk whose choice and delta are changed in place."""

    def one(chunk: Json) -> Json:
        for choice in chunk["choices"]:
            change(choice, choice["delta"])
        return chunk

    return one
