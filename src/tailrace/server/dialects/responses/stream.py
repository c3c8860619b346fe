"""Encodes the stream: numbered, named events from ``response.created`` to the end of the response.

Codex, the openai packages and the AI SDK depend on the order (docs/wire.md): each item is added, has its deltas and is
done before the response is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.errors import RequestError
from tailrace.server import sse
from tailrace.server.dialects.responses.output import Output
from tailrace.server.dialects.responses.response_object import ResponseHead
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
        """``ended`` is called with the response at its end, in every case."""
        self._head = head
        self._comments = comments
        self._ended = ended
        self._output = Output(tools, summary=summary, encrypted=encrypted, emit=self._emit)
        self._number = 0  #: of the next event
        self._pieces: list[bytes] = []
        self._text_item_id = ""  #: id of the message that ``_before_text`` belongs to
        self._before_text = b""

    def start(self) -> list[bytes]:
        """The response as it begins, twice."""
        self._lifecycle("created")
        self._lifecycle("in_progress")
        return self._take_pieces()

    def encode(self, event: Event) -> list[bytes]:
        """The event's pieces; none for an end that isn't the last yet."""
        output = self._output
        if isinstance(event, TextDelta) and event.logprobs is None and (message := output.message) is not None:
            # The constant part of the event is made once: a token costs one encode and one join.
            if self._text_item_id != message.id:
                self._text_item_id = message.id
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
            return self._take_pieces()
        output.emit(event)
        if isinstance(event, Usage):
            self._end(output.status, self._head.body(output.status, output.items(), output.usage))
        elif isinstance(event, Failure):
            self._error(event.error)
            self._end("failed", self._head.body("failed", output.items(), output.usage, output.error))
        return self._take_pieces()

    def empty(self, choice: int) -> list[bytes]:
        """See ``MeasuredStream``."""
        self._lifecycle("in_progress")
        return self._take_pieces()

    def end(self) -> bytes:
        """Empty: the last event is the end. Without it, the client has disconnected."""
        if self._output.status == "in_progress":
            self._ended(self._head.body("cancelled", self._output.items()))
        return b""

    def _lifecycle(self, name: str) -> None:
        self._emit(f"response.{name}", {"response": self._head.body("in_progress", [])})

    def _end(self, name: str, body: dict[str, Any]) -> None:
        self._emit(f"response.{name}", {"response": body})
        self._ended(body)

    def _error(self, error: RequestError) -> None:
        """The API reference has flat fields; the openai packages and the AI SDK read ``error``."""
        flat = {"code": error.code, "message": error.message, "param": error.param}
        self._emit("error", {**flat, "error": {"type": error.type, **flat}})

    def _emit(self, kind: str, fields: dict[str, Any]) -> None:
        body = {"type": kind, **fields, "sequence_number": self._number}
        self._number += 1
        self._pieces.append(sse.named(kind, msgspec.json.encode(body)))

    def _take_pieces(self) -> list[bytes]:
        pieces, self._pieces = self._pieces, []
        return pieces
