"""The stream: named events that count themselves, from ``response.created`` to the end of the response.

The order is the API's, and Codex, the openai packages and the AI SDK depend on it (docs/wire.md): every item is added,
told and done, whole, before the response is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.server import sse
from tailrace.server.dialects.responses.body import ResponseHead
from tailrace.server.dialects.responses.output import Output
from tailrace.server.dialects.responses.tools import Toolset
from tailrace.server.events import Event, Failure, KeepAlive, TextDelta, Usage


class ResponsesStream:
    """Encodes the stream of one response. See ``Encoder``."""

    def __init__(
        self,
        head: ResponseHead,
        tools: Toolset,
        *,
        summary: bool,
        encrypted: bool,
        comments: bool,
        ended: Callable[[dict[str, Any]], None],
    ) -> None:
        """``ended`` is told the response once it is over, whatever ended it."""
        self._head = head
        self._comments = comments
        self._ended = ended
        self._output = Output(tools, summary=summary, encrypted=encrypted, emit=self._emit)
        self._number = 0  #: of the next event
        self._pieces: list[bytes] = []
        self._spoken = ""  #: id of the message that ``_before_text`` belongs to
        self._before_text = b""

    def start(self) -> list[bytes]:
        """The response as it begins, twice."""
        self._lifecycle("created")
        self._lifecycle("in_progress")
        return self._taken()

    def encode(self, event: Event) -> list[bytes]:
        """The event's pieces; none for an end that isn't the last yet."""
        output = self._output
        if isinstance(event, TextDelta) and event.logprobs is None and (message := output.message) is not None:
            # All of the event but its text is made once: one encode and one join a token.
            if self._spoken != message.id:
                self._spoken = message.id
                self._before_text = message.before_text()
            message.texts.append(event.text)
            number = self._number
            self._number += 1
            text = msgspec.json.encode(event.text)
            return [self._before_text + text + b',"logprobs":[],"sequence_number":%d}\n\n' % number]
        if isinstance(event, KeepAlive):
            if self._comments:
                return [sse.COMMENT]
            self._lifecycle("in_progress")
            return self._taken()
        output.emit(event)
        if isinstance(event, Usage):
            self._over(output.status, self._head.body(output.status, output.items(), output.usage))
        elif isinstance(event, Failure):
            self._error(event.error)
            self._over("failed", self._head.body("failed", output.items(), output.usage, output.error))
        return self._taken()

    def in_progress(self) -> list[bytes]:
        """An event that adds nothing."""
        self._lifecycle("in_progress")
        return self._taken()

    def end(self) -> bytes:
        """Nothing: the last event is the end. Without one the client has gone away."""
        if self._output.status == "in_progress":
            self._ended(self._head.body("cancelled", self._output.items()))
        return b""

    def _lifecycle(self, name: str) -> None:
        self._emit(f"response.{name}", {"response": self._head.body("in_progress", [])})

    def _over(self, name: str, body: dict[str, Any]) -> None:
        self._emit(f"response.{name}", {"response": body})
        self._ended(body)

    def _error(self, error: RequestError) -> None:
        """The API's reference has the fields flat; the openai packages raise on ``error``, the AI SDK reads it."""
        flat = {"code": error.code, "message": error.message, "param": error.param}
        self._emit("error", {**flat, "error": {"type": error.type, **flat}})

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        body = {"type": kind, **fields, "sequence_number": self._number}
        self._number += 1
        self._pieces.append(sse.named(kind, msgspec.json.encode(body)))

    def _taken(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces
