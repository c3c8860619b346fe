"""The requests to one server and their responses. Each observation is made once, when the first rule needs it.

The session sends and stores; the rules judge. A failed observation is NotObserved for every rule but the one that
requires it, so one fault is reported once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tailrace.conformance.connection import Connection, ProtocolError, Response
from tailrace.conformance.dialects import Dialect, Json
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, RuleBroken
from tailrace.conformance.target import Target

Value = TypeVar("Value")

#: The prompt of most requests.
QUESTION = "Write one short sentence about the sea."


@dataclass(frozen=True)
class Limits:
    """Sizes of requests and bounds on the server's times. Times in seconds."""

    max_tokens: int = 32  #: of a usual reply
    timeout: float = 60.0  #: without a byte from the server
    max_silence: float = 10.0  #: of a stream, before it needs a keep-alive
    max_delay: float = 1.0  #: of headers, and of the list of models
    long_prompt_words: int = 600
    min_long_reply: float = 3.0  #: of the reply that a client leaves; servers renew metrics about once a second


class Session:
    """One server under test. ``model`` is the model's name in requests, ``ollama_model`` its name in Ollama's."""

    def __init__(
        self,
        target: Target,
        model: str,
        main_dialect: Dialect,
        limits: Limits,
        ollama_model: str | None = None,
        dialects: Sequence[Dialect] = (),
    ) -> None:
        self.target = target
        self.model = model
        self.ollama_model = ollama_model or model
        self.main_dialect = main_dialect  #: for rules that hold for all dialects
        self.dialects = dialects or [main_dialect]  #: all that are checked
        self.limits = limits
        self.streams: list[RecordedStream] = []  #: every stream that was read, in order
        self._observations: dict[str, Any] = {}

    # Requests

    def open(self) -> Connection:
        """A new connection. Raises CheckError."""
        return Connection(self.target, self.limits.timeout)

    def request(
        self,
        method: str,
        path: str,
        body: Json | bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunk_size: int = 0,
        dialect: Dialect | None = None,
        key: bool = True,
    ) -> Response:
        """One request on its own connection. ``key`` False leaves out the API key. Raises ProtocolError."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        lines = (dialect or self.main_dialect).headers(self.target.key if key else None)
        if data is not None:
            lines["Content-Type"] = "application/json"
        for name, value in (headers or {}).items():
            lines = {known: other for known, other in lines.items() if known.lower() != name.lower()}
            lines[name] = value
        with self.open() as connection:
            connection.send(method, path, data, lines, chunk_size=chunk_size)
            return connection.read()

    def post(self, dialect: Dialect, body: Json | bytes, headers: Mapping[str, str] | None = None) -> Response:
        """A request to the dialect's main route. Raises ProtocolError."""
        return self.request("POST", dialect.path(self.target), body, headers, dialect=dialect)

    def question_body(self, dialect: Dialect, text: str = QUESTION, limit: int | None = None, **more: Any) -> Json:
        """The body of a request with the prompt ``text``. ``more`` adds fields; None removes a field."""
        model = self.ollama_model if dialect.name == "ollama" else self.model
        body = dialect.request_body(model, text, self.limits.max_tokens if limit is None else limit) | more
        return {name: value for name, value in body.items() if value is not None}

    def read_stream(
        self, dialect: Dialect, label: str, body: Json, headers: Mapping[str, str] | None = None
    ) -> RecordedStream:
        """A streamed response with all trailing bytes. Raises ProtocolError when there are no headers."""
        lines = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate, br", "Connection": "close"}
        lines |= dialect.headers(self.target.key) | dict(headers or {})
        with self.open() as connection:
            connection.send("POST", dialect.path(self.target), json.dumps(dialect.streamed(body)).encode(), lines)
            reply = connection.read_head()
            try:
                for _ in connection.read_body(reply):
                    pass
                reply.trailing = connection.read_trailing()
            except ProtocolError as error:
                reply.truncated = str(error)
        stream = RecordedStream(label, reply, ndjson=dialect.name == "ollama")
        if reply.status == 200:
            self.streams.append(stream)
        return stream

    # Observations

    def observe_once(self, name: str, observe: Callable[[], Value]) -> Value:
        """The result of the first call of ``observe`` under this name, or the exception that it raised."""
        if name not in self._observations:
            try:
                self._observations[name] = observe()
            except (ProtocolError, NotObserved, RuleBroken) as error:
                self._observations[name] = error
        found = self._observations[name]
        if isinstance(found, ProtocolError | NotObserved | RuleBroken):
            raise type(found)(*found.args)
        value: Value = found
        return value

    def plain_response(self, dialect: Dialect) -> Response:
        """The response to QUESTION, of any status."""
        return self.observe_once(f"{dialect.name} answer", lambda: self.post(dialect, self.question_body(dialect)))

    def plain_answer(self, dialect: Dialect) -> Json:
        """The JSON object of the successful response to QUESTION. Raises NotObserved without one."""
        try:
            reply = self.plain_response(dialect)
        except ProtocolError as error:
            raise NotObserved(f"no answer: {error}") from None
        body = reply.json()
        if reply.status != 200 or not isinstance(body, dict):
            raise NotObserved(f"no answer to look at: {describe(reply)}")
        return body

    def stream_response(
        self, dialect: Dialect, label: str = "plain", text: str = QUESTION, **more: Any
    ) -> RecordedStream:
        """The streamed response with that label, of any status. Raises ProtocolError."""
        return self.observe_once(
            f"{dialect.name} {label}",
            lambda: self.read_stream(dialect, label, self.question_body(dialect, text, **more)),
        )

    def streamed_answer(
        self, dialect: Dialect, label: str = "plain", text: str = QUESTION, **more: Any
    ) -> RecordedStream:
        """The successful stream with that label. Raises NotObserved without one."""
        try:
            stream = self.stream_response(dialect, label, text, **more)
        except ProtocolError as error:
            raise NotObserved(f"no stream: {error}") from None
        if stream.reply.status != 200 or not stream.objects:
            raise NotObserved(f"no stream to look at: {describe(stream.reply)}")
        return stream


def describe(reply: Response) -> str:
    """The status and the first characters of the body, on one line."""
    return f"{reply.status} {excerpt(reply.body)}" if reply.body else f"{reply.status} without a body"


def excerpt(data: bytes | str, max_chars: int = 90) -> str:
    """The first characters of ``data``, on one line."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    text = text.replace("\r", "␍").replace("\n", "␊")
    return text if len(text) <= max_chars else f"{text[:max_chars]}…"
