"""A model of a server that speaks OpenAI's chat completions, as ``tailrace chat`` talks with it.

A thread reads the stream, so that Ctrl-C is noticed while the server is silent. Nothing that the server sends is
trusted: its texts reach the terminal through ``cli.terminal`` alone, which makes them harmless.
"""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from tailrace.chat.reply_parts import ReasoningPart, ReplyPart
from tailrace.cli.chat_history import ChatHistory
from tailrace.cli.chat_model import Stats
from tailrace.cli.server_client import NoAnswer, Refused, ServerClient, reason
from tailrace.cli.think_tags import ThinkTags
from tailrace.errors import TailraceError

_PATH = "/v1/chat/completions"
#: Seconds between two looks for Ctrl-C.
_LOOK_SECONDS = 0.1
#: Bytes of the longest line of a stream.
_MAX_LINE = 8 << 20
#: Events that are read ahead of the terminal.
_MAX_EVENTS = 1000


class RemoteModel:
    """The server's model ``name``; it may be changed between two replies."""

    def __init__(self, client: ServerClient, name: str) -> None:
        self._client = client
        self.name = name

    def reply(self, conversation: ChatHistory) -> RemoteReply:
        """The next assistant message. Errors come with its iteration."""
        given = msgspec.structs.asdict(conversation.parameters)
        body = {
            "model": self.name,
            "messages": conversation.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            **{name: value for name, value in given.items() if value is not None},
        }
        return RemoteReply(self._client, body)


class RemoteReply:
    """One reply. Use ``RemoteModel.reply``."""

    def __init__(self, client: ServerClient, body: dict[str, Any]) -> None:
        self._client = client
        self._events: queue.Queue[dict[str, Any] | TailraceError | None] = queue.Queue(_MAX_EVENTS)
        self._connection = client.connect()
        self._cancelled = False
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = self._began
        self._pieces = 0
        self._usage: dict[str, Any] = {}
        self._finish: str | None = None
        self._tags = ThinkTags()
        threading.Thread(target=self._read, args=(body,), name="reply", daemon=True).start()

    def __iter__(self) -> Iterator[list[ReplyPart]]:
        while True:
            try:
                event = self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                yield []
                continue
            if event is None:
                break
            if isinstance(event, TailraceError):
                if self._cancelled:
                    break
                raise event
            if not self._cancelled:
                yield self._parts(event)
        yield self._tags.finish()

    def cancel(self) -> None:
        """Break off the connection, which ends the generation on the server."""
        self._cancelled = True
        sock = self._connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @property
    def stats(self) -> Stats:
        """The reply's figures, once the iteration is over: tokens as the server counts them, or else its pieces."""
        first = self._first if self._first is not None else self._last
        details = self._usage.get("prompt_tokens_details")
        return Stats(
            prompt_tokens=_count(self._usage.get("prompt_tokens")),
            cached_tokens=_count(details.get("cached_tokens")) if isinstance(details, dict) else None,
            tokens=_count(self._usage.get("completion_tokens")) or self._pieces,
            first_token=first - self._began,
            decoding=self._last - first,
            ended=self._ended,
        )

    @property
    def _ended(self) -> Literal["stop", "max_tokens", "cancelled"]:
        if self._cancelled:
            return "cancelled"
        return "max_tokens" if self._finish == "length" else "stop"

    def _parts(self, event: dict[str, Any]) -> list[ReplyPart]:
        """The parts of one event, whose figures are noted. Raises Refused for an error, or for another form."""
        if event.get("error") is not None:
            raise Refused(
                reason(msgspec.json.encode(event)) or f"{self._client.url} reports an error without a message"
            )
        try:
            if isinstance(usage := event.get("usage"), dict):
                self._usage = usage
            if not event.get("choices"):
                return []
            choice = event["choices"][0]
            self._finish = choice.get("finish_reason") or self._finish
            delta = choice.get("delta") or {}
            # llama.cpp, DeepSeek and tailrace say reasoning_content; vLLM, Ollama and OpenRouter reasoning.
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            text = delta.get("content")
        except (AttributeError, KeyError, IndexError, TypeError) as error:
            raise Refused(f"{self._client.url} streams in no form of OpenAI's") from error
        parts: list[ReplyPart] = [ReasoningPart(thought)] if isinstance(thought, str) and thought else []
        if isinstance(text, str) and text:
            parts += self._tags.feed(text)
        if (isinstance(text, str) and text) or parts:
            self._pieces += 1
            self._last = time.monotonic()
            self._first = self._first or self._last
        return parts

    # In the thread

    def _read(self, body: dict[str, Any]) -> None:
        try:
            self._stream(body)
        except TailraceError as error:
            self._events.put(error)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._events.put(self._client.no_answer(error))
        finally:
            self._connection.close()
            self._events.put(None)

    def _stream(self, body: dict[str, Any]) -> None:
        connection = self._connection
        connection.connect()
        assert connection.sock is not None
        connection.sock.settimeout(None)  # A long prompt is read for minutes, and not every server has keep-alives.
        response = self._client.request(connection, "POST", _PATH, body)
        if response.status != 200:
            said = reason(response.read(_MAX_LINE))
            raise Refused(f"{self._client.url} refuses (status {response.status}): {said or 'it gives no reason'}")
        ended = False
        while line := response.readline(_MAX_LINE):
            if self._cancelled:
                return
            if len(line) == _MAX_LINE:
                raise Refused(f"{self._client.url} sends a line of more than {_MAX_LINE} bytes")
            name, _, data = line.partition(b":")
            if name != b"data":
                continue  # A comment that keeps the connection alive, an event's name, or an empty line.
            if data.strip() == b"[DONE]":
                return
            event = _decoded(data, self._client.url)
            choices = event.get("choices")
            ended = ended or bool(choices and isinstance(choices, list) and choices[0].get("finish_reason"))
            self._events.put(event)
        if not ended and not self._cancelled:
            raise NoAnswer(f"{self._client.url} has broken off its reply")


def _decoded(data: bytes, url: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Refused(f"{url} streams something else than JSON objects") from error


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
