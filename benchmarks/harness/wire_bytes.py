"""One request of each dialect, and what two servers must write alike: everything but ids, times and lengths."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

_SILENCE_SECONDS = 60.0
_MESSAGES = [{"role": "user", "content": "<say>time and the river</say>"}]
#: Paths and bodies by what a reader calls them.
REQUESTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "OpenAI chat, streamed": ("/v1/chat/completions", {"messages": _MESSAGES, "stream": True}),
    "OpenAI chat": ("/v1/chat/completions", {"messages": _MESSAGES}),
    "OpenAI text, streamed": ("/v1/completions", {"prompt": "<say>river</say>", "stream": True}),
    "Responses, streamed": ("/v1/responses", {"input": "<say>time and the river</say>", "stream": True}),
    "Anthropic, streamed": ("/v1/messages", {"messages": _MESSAGES, "max_tokens": 40, "stream": True}),
    "Anthropic": ("/v1/messages", {"messages": _MESSAGES, "max_tokens": 40}),
    "Ollama chat, streamed": ("/api/chat", {"messages": _MESSAGES}),
    "Ollama generate": ("/api/generate", {"prompt": "<say>river</say>", "stream": False}),
    "llama-server, streamed": ("/completion", {"prompt": "<say>river</say>", "stream": True}),
    "a wrong field": ("/v1/chat/completions", {"messages": _MESSAGES, "max_tokens": "many"}),
    "a wrong path": ("/v1/nothing", {}),
}
#: Sizes of chunks, numbers and ids. A fraction goes before an id: its digits may look like one.
_VARYING = re.compile(rb"(?<=\r\n)[0-9a-f]+(?=\r\n)|-?\d+\.\d+(?:e-?\d+)?|-?[0-9a-f]{12,}|-?\d+(?:e-?\d+)?")
_DATE = re.compile(rb"(?m)^date: .*$")


def response(port: int, name: str, model: str) -> bytes:
    """All bytes of the response to the request ``name``, as they are on the wire."""
    path, fields = REQUESTS[name]
    body = msgspec.json.encode({"model": model, **fields})
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=_SILENCE_SECONDS) as sock:
        sock.sendall(head.encode() + body)
        pieces = []
        while piece := sock.recv(65_536):
            pieces.append(piece)
    return b"".join(pieces)


def comparable(wire: bytes) -> bytes:
    """The bytes with ids, dates and numbers replaced, which differ from reply to reply."""
    return _VARYING.sub(b"0", _DATE.sub(b"date: D", wire))
