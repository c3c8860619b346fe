"""Faults in OpenAI's chat stream: its headers, events and chunks."""

from __future__ import annotations

import json
from collections.abc import Callable

from fault_rules import CHAT, answer_if, delta, each, fault, has, header, objects, pieces, plain, put, refuse, streams
from model_server import Alter, Json
from tool_call_faults import finish

STREAM = streams(CHAT)
#: The three streams that most rules look at.
SHORT = has(CHAT, lambda body: body.get("stream") is True and not body.get("tools") and len(str(body)) < 600)

fault("stream-status", "500", refuse(plain(CHAT), 500))
fault("stream-type", "case", header(plain(CHAT), "content-type", "Text/Event-Stream"))
fault("stream-type", "JSON", header(plain(CHAT), "content-type", "application/json"))
fault("stream-cache", "none", header(plain(CHAT), "cache-control", None))
fault("stream-buffering", "none", header(plain(CHAT), "x-accel-buffering", None))
fault("stream-encoding", "gzip", header(plain(CHAT), "content-encoding", "gzip"))
fault("stream-end", "twice", answer_if(plain(CHAT), lambda answer: put(vars(answer), "tail", b"0\r\n\r\n")))
fault("stream-end", "close", answer_if(plain(CHAT), lambda answer: put(vars(answer), "framing", "close")))
fault("stream-end", "length", answer_if(plain(CHAT), lambda answer: put(vars(answer), "framing", "length")))
fault("stream-end", "never", answer_if(plain(CHAT), lambda answer: put(vars(answer), "end", b"")))
fault("header-case", "X-", header(STREAM, "X-Served-By", "tests"))
fault("data-prefix", "no space", each(SHORT, lambda piece: piece.replace(b"data: ", b"data:")))
fault("line-feeds", "CR LF", each(SHORT, lambda piece: piece.replace(b"\n", b"\r\n")))
fault("line-feeds", "three", each(SHORT, lambda piece: piece + b"\n"))
fault("one-data-line", "two", each(SHORT, lambda piece: piece.replace(b', "object"', b',\ndata: "object"')))
fault("one-data-line", "no JSON", pieces(SHORT, lambda found: [*found[:1], b"data: soon\n\n", *found[1:]]))
fault("no-event-lines", "event", each(SHORT, lambda piece: b"event: message\n" + piece))
fault("no-event-lines", "id", each(SHORT, lambda piece: b"id: 1\n" + piece))
fault("no-event-lines", "retry", pieces(SHORT, lambda found: [b"retry: 5\n" + found[0], *found[1:]]))
fault("one-event-a-write", "two", pieces(SHORT, lambda found: [found[0] + found[1], *found[2:]]))
fault("one-event-a-write", "halves", pieces(SHORT, lambda found: [found[0][:9], found[0][9:], *found[1:]]))
fault("utf8", "U+FFFD", each(SHORT, lambda piece: piece.replace("🎉".encode(), "�".encode())))
fault("utf8", "half a character", each(SHORT, lambda piece: piece.replace("🎉".encode(), "🎉".encode()[:2])))
fault("utf8", "half a pair", each(SHORT, lambda piece: piece.replace("🎉".encode(), b"\\ud83c")))
fault("line-length", "70,000", each(plain(CHAT), lambda piece: piece.replace(b"ends", b"e" * 70_000)))


def _numbered(name: str, values: Callable[[int], object]) -> Alter:
    def change(found: list[bytes]) -> list[bytes]:
        changed = []
        for place, piece in enumerate(found):
            if piece.startswith(b"data: {"):
                piece = b"data: " + json.dumps(put(json.loads(piece[6:]), name, values(place))).encode() + b"\n\n"
            changed.append(piece)
        return changed

    return pieces(SHORT, change)


fault("same-id", "another each", _numbered("id", str))
fault("same-id", "number", _numbered("id", lambda place: 1))
fault("created", "float", _numbered("created", lambda place: 1.5))
fault("same-model", "another each", _numbered("model", str))
fault("object", "whole's", objects(SHORT, lambda chunk: put(chunk, "object", "chat.completion")))
fault(
    "first-chunk",
    "no content",
    objects(SHORT, delta(lambda choice, found: found.pop("content") if "role" in found else None)),
)
fault("first-chunk", "none", pieces(SHORT, lambda found: found[1:]))
fault("delta-object", "null", objects(SHORT, delta(lambda choice, found: put(choice, "delta", found or None))))
fault(
    "content-null",
    "null",
    objects(
        SHORT,
        delta(lambda choice, found: put(found, "content", None) if "reasoning_content" in found else None),
    ),
)
fault(
    "content",
    "none",
    objects(
        plain(CHAT), lambda chunk: chunk if not chunk["choices"] or len(chunk["choices"][0]["delta"]) != 1 else None
    ),
)
fault(
    "finish-key",
    "left out",
    objects(SHORT, delta(lambda choice, found: None if choice["finish_reason"] else choice.pop("finish_reason"))),
)
fault("one-finish", "none", objects(plain(CHAT), lambda chunk: None if chunk["choices"][0]["finish_reason"] else chunk))
fault("one-finish", "two", pieces(plain(CHAT), lambda found: [*found[:-1], found[-2], found[-1]]))
fault(
    "finish-alone",
    "text",
    objects(SHORT, delta(lambda choice, found: put(found, "content", ".") if choice["finish_reason"] else None)),
)
fault("finish-values", "eos", objects(SHORT, lambda chunk: finish(chunk, "eos")))

USAGE: Json = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
fault(
    "no-usage-unasked",
    "in the finish",
    objects(plain(CHAT), lambda chunk: put(chunk, "usage", USAGE) if chunk["choices"][0]["finish_reason"] else chunk),
)
asks_usage = has(CHAT, lambda body: body.get("stream_options") and body.get("stream"))


def _merged(chunk: Json) -> Json | None:
    if not chunk["choices"]:
        return None
    return put(chunk, "usage", USAGE) if chunk["choices"][0]["finish_reason"] else chunk


fault("usage-chunk", "in the finish", objects(asks_usage, _merged))
fault("usage-chunk", "none", objects(asks_usage, lambda chunk: chunk if chunk["choices"] else None))
fault(
    "usage-sums",
    "zero",
    objects(
        asks_usage, lambda chunk: chunk if chunk["choices"] else put(chunk, "usage", {**USAGE, "completion_tokens": 0})
    ),
)
fault("no-null-extras", "timings", objects(SHORT, lambda chunk: put(chunk, "timings", None)))
fault("no-nulls", "fingerprint", objects(SHORT, lambda chunk: put(chunk, "system_fingerprint", None)))
fault("done", "none", pieces(plain(CHAT), lambda found: found[:-1]))
fault("done", "twice", pieces(plain(CHAT), lambda found: [*found, found[-1]]))
fault("done", "not the last", pieces(plain(CHAT), lambda found: [*found[:-2], found[-1], found[-2]]))
fault(
    "reasoning-apart",
    "both",
    objects(
        SHORT,
        delta(lambda choice, found: put(found, "content", "x") if "reasoning_content" in found else None),
    ),
)
fault(
    "reasoning-apart",
    "empty",
    objects(
        SHORT,
        delta(lambda choice, found: put(found, "reasoning_content", "") if found.get("content") else None),
    ),
)
fault("think-tags", "with text", each(SHORT, lambda piece: piece.replace(b"<think>", b"<think>So")))


def failing(*behind: bytes, shown: bool = True) -> Alter:
    """The plain chat stream fails after three pieces; ``behind`` comes behind the error."""
    error = {"message": "the engine died", "type": "server_error", "param": None, "code": "engine_died"}

    def change(found: list[bytes]) -> list[bytes]:
        text = json.loads(found[0][6:])
        text["choices"][0]["delta"] = {"content": error["message"]}
        said = [b"data: " + json.dumps(text).encode() + b"\n\n"] if shown else []
        return [*found[:3], *said, b"data: " + json.dumps({"error": error}).encode() + b"\n\n", *behind]

    return pieces(plain(CHAT), change)


fault("error-in-stream", "[DONE]", failing(b"data: [DONE]\n\n"))
fault("error-in-stream", "not shown", failing(shown=False))
