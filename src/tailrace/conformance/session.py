"""What was asked of one server and what it answered: each observation is made once, when the first rule wants it.

Asks and remembers; the rules judge. An observation that couldn't be made is NotSeen for all but the rule that is about
its being there, so that one fault is told once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tailrace.conformance.connection import Connection, Reply, WireError
from tailrace.conformance.dialects import Dialect, Json
from tailrace.conformance.events import Stream
from tailrace.conformance.rule import Broken, NotSeen
from tailrace.conformance.target import Target

Value = TypeVar("Value")

#: The plainest question, asked again and again.
QUESTION = "Write one short sentence about the sea."


@dataclass(frozen=True)
class Limits:
    """How much is asked of the server. Times in seconds."""

    tokens: int = 32  #: most tokens of a reply that is read
    timeout: float = 60.0  #: without anything coming
    silence: float = 10.0  #: after which a stream needs a sign of life
    promptly: float = 1.0  #: for headers and for the list of models
    long_prompt: int = 600  #: words of the longest prompt


class Session:
    """One server under examination. ``model`` is what requests name, ``ollama_model`` what Ollama's do."""

    def __init__(
        self,
        target: Target,
        model: str,
        main: Dialect,
        limits: Limits,
        ollama_model: str | None = None,
        dialects: Sequence[Dialect] = (),
    ) -> None:
        self.target = target
        self.model = model
        self.ollama_model = ollama_model or model
        self.main = main  #: the dialect of the rules that any dialect would do for
        self.dialects = dialects or [main]  #: all that are checked
        self.limits = limits
        self.streams: list[Stream] = []  #: every one that was read, in order
        self._seen: dict[str, Any] = {}

    # Asking

    def open(self) -> Connection:
        """A new connection. Raises CheckError."""
        return Connection(self.target, self.limits.timeout)

    def ask(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        pieces: int = 0,
        dialect: Dialect | None = None,
        key: bool = True,
    ) -> Reply:
        """One request on a connection of its own; ``key`` False leaves out the key. Raises WireError."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        lines = (dialect or self.main).headers(self.target.key if key else None)
        if data is not None:
            lines["Content-Type"] = "application/json"
        for name, value in (headers or {}).items():
            lines = {known: kept for known, kept in lines.items() if known.lower() != name.lower()}
            lines[name] = value
        with self.open() as connection:
            connection.send(method, path, data, lines, pieces=pieces)
            return connection.read()

    def post(self, dialect: Dialect, body: Json | bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """A request to the dialect's main route. Raises WireError."""
        return self.ask("POST", dialect.path(self.target), body, headers, dialect=dialect)

    def question(self, dialect: Dialect, text: str = QUESTION, limit: int | None = None, **more: Any) -> Json:
        """A question's body; ``more`` goes into it, and None takes a field out."""
        model = self.ollama_model if dialect.name == "ollama" else self.model
        body = dialect.question(model, text, self.limits.tokens if limit is None else limit) | more
        return {name: value for name, value in body.items() if value is not None}

    def read_stream(self, dialect: Dialect, label: str, body: Json, headers: Mapping[str, str] | None = None) -> Stream:
        """A streamed reply with all that was behind it. Raises WireError when not even headers came."""
        lines = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate, br", "Connection": "close"}
        lines |= dialect.headers(self.target.key) | dict(headers or {})
        with self.open() as connection:
            connection.send("POST", dialect.path(self.target), json.dumps(dialect.stream(body)).encode(), lines)
            reply = connection.head()
            try:
                for _ in connection.chunks(reply):
                    pass
                reply.rest = connection.rest()
            except WireError as error:
                reply.broken = str(error)
        stream = Stream(label, reply, lines=dialect.name == "ollama")
        if reply.status == 200:
            self.streams.append(stream)
        return stream

    # Observations

    def once(self, name: str, observe: Callable[[], Value]) -> Value:
        """What ``observe`` gave or raised the first time."""
        if name not in self._seen:
            try:
                self._seen[name] = observe()
            except (WireError, NotSeen, Broken) as error:
                self._seen[name] = error
        found = self._seen[name]
        if isinstance(found, WireError | NotSeen | Broken):
            raise type(found)(*found.args)
        value: Value = found
        return value

    def answer(self, dialect: Dialect) -> Reply:
        """The reply to the plain question, whatever it is."""
        return self.once(f"{dialect.name} answer", lambda: self.post(dialect, self.question(dialect)))

    def answered(self, dialect: Dialect) -> Json:
        """The JSON object that answers the plain question. Raises NotSeen when there is none."""
        try:
            reply = self.answer(dialect)
        except WireError as error:
            raise NotSeen(f"no answer: {error}") from None
        body = reply.json()
        if reply.status != 200 or not isinstance(body, dict):
            raise NotSeen(f"no answer to look at: {summary(reply)}")
        return body

    def stream(self, dialect: Dialect, label: str = "plain", text: str = QUESTION, **more: Any) -> Stream:
        """The streamed reply of that name, whatever it is. Raises WireError."""
        return self.once(
            f"{dialect.name} {label}",
            lambda: self.read_stream(dialect, label, self.question(dialect, text, **more)),
        )

    def streamed(self, dialect: Dialect, label: str = "plain", text: str = QUESTION, **more: Any) -> Stream:
        """The streamed reply of that name, which is one. Raises NotSeen when there is none."""
        try:
            stream = self.stream(dialect, label, text, **more)
        except WireError as error:
            raise NotSeen(f"no stream: {error}") from None
        if stream.reply.status != 200 or not stream.objects:
            raise NotSeen(f"no stream to look at: {summary(stream.reply)}")
        return stream


def summary(reply: Reply) -> str:
    """Status and beginning of a reply, as a line."""
    return f"{reply.status} {shown(reply.body)}" if reply.body else f"{reply.status} without a body"


def shown(data: bytes | str, most: int = 90) -> str:
    """The beginning of ``data``, on one line."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = text.replace("\r", "␍").replace("\n", "␊")
    return text if len(text) <= most else f"{text[:most]}…"
