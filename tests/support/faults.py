"""For each rule of the checker, servers that break it and nothing else: ``good_dialects`` with one thing changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from good_dialects import LONG_PROMPT, SIGNS
from model_server import Alter, Answer, Asked, Json, ModelServer

CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES = "/chat/completions", "/completions", "/embeddings", "/responses"
MESSAGES, OLLAMA = "/messages", "/api/chat"


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
    """Enter a fault."""
    FAULTS.append(Fault(rule, name, alter, keyed, limits))


# How things are changed

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


# Transport

fault("chunked-upload", "411", refuse(lambda asked: asked.chunked, 411))
fault("charset", "415", refuse(lambda asked: "charset" in asked.headers.get("content-type", ""), 415))
fault("accept", "406", refuse(lambda asked: asked.headers.get("accept") == "text/event-stream", 406))
fault("without-v1", "404", refuse(lambda asked: asked.path == CHAT, 404))
fault("slashes", "doubled", refuse(lambda asked: "//" in asked.path, 404))
fault("slashes", "trailing", refuse(lambda asked: len(asked.path) > 1 and asked.path.endswith("/"), 404))
fault("slashes", "v1/v1", refuse(lambda asked: "/v1/v1/" in asked.path, 404))
fault("no-redirect", "307", refuse(lambda asked: len(asked.path) > 1 and asked.path.endswith("/"), 307))
fault(
    "preflight",
    "405",
    answer_if(lambda asked: asked.method == "OPTIONS", lambda answer: put(vars(answer), "status", 405)),
)
fault("preflight", "no headers", header(lambda asked: asked.method == "OPTIONS", "access-control-allow-headers", None))
fault("preflight", "a star", header(lambda asked: asked.method == "OPTIONS", "access-control-allow-headers", "*"))
fault("cors-on-errors", "none", header(is_broken(CHAT), "access-control-allow-origin", None))
fault("cors-on-streams", "none", header(streams(CHAT), "access-control-allow-origin", None))
fault("liveness", "HEAD", refuse(lambda asked: asked.method == "HEAD", 405))
fault("liveness", "health", refuse(lambda asked: asked.path == "/health", 404))
fault("any-key", "Bearer", refuse(lambda asked: "sk-any" in asked.headers.get("authorization", ""), 401))
fault("any-key", "x-api-key", refuse(lambda asked: "x-api-key" in asked.headers, 401))
fault(
    "wrong-key",
    "403",
    answer_if(lambda asked: asked.headers.get("x-api-key") == "wrong", lambda answer: put(vars(answer), "status", 403)),
    keyed=True,
)
fault(
    "wrong-key",
    "shape",
    answer_if(has(CHAT, lambda body: True), lambda answer: answer.status == 401 and answer.say("no")),
    keyed=True,
)
fault(
    "either-header",
    "x-api-key",
    refuse(lambda asked: "authorization" not in asked.headers and at(CHAT)(asked), 401),
    keyed=True,
)
fault("error-shape", "text", header(is_broken(CHAT), "content-type", "text/plain"))
fault("error-shape", "detail", answer_if(is_broken(CHAT), lambda answer: answer.say({"detail": "broken"})))
fault(
    "error-shape",
    "code is a number",
    answer_if(
        is_broken(CHAT), lambda answer: answer.say({"error": {"message": "m", "type": "t", "param": None, "code": 400}})
    ),
)
fault(
    "error-shape",
    "200",
    answer_if(is_broken(CHAT), lambda answer: answer.refuse(200, {"error": {"message": "m", "type": "t"}})),
)
fault("unknown-route", "text", answer_if(at("/no-such-route"), lambda answer: put(vars(answer), "body", b"Not Found")))
fault(
    "unknown-model", "500", refuse(has(CHAT, lambda body: "no-such" in str(body.get("model"))), 500, "no-such-model-1b")
)
fault("unknown-model", "not named", refuse(has(CHAT, lambda body: "no-such" in str(body.get("model"))), 404))
fault("not-401", "status", refuse(has(CHAT, lambda body: not body), 403))
fault("not-401", "credit", refuse(has(CHAT, lambda body: not body), 400, "You have no credit for this."))
fault("connection-close", "closes", answer_if(streams(CHAT), lambda answer: put(vars(answer), "closes", True)))
fault(
    "connection-reuse",
    "rubbish",
    answer_if(
        lambda asked: streams(CHAT)(asked) and "connection" not in asked.headers,
        lambda answer: put(vars(answer), "tail", b"0\r\n\r\n"),
    ),
)

# Chat requests


def first_choice(body: Json) -> Json:
    """The one choice of a whole reply."""
    choice: Json = body["choices"][0]
    return choice


def in_form(change: Callable[[Json], object]) -> Alter:
    """Whole replies to a schema are changed in place."""
    return whole(has(CHAT, lambda body: "response_format" in body), change)


def crash(where: Where) -> Alter:
    """A failure of the server's own."""
    return refuse(where, 500)


fault("half-emoji", "400", refuse(lambda asked: rb"\ud83d" in asked.raw))
fault("byte-order-mark", "400", refuse(lambda asked: asked.raw.startswith(b"\xef\xbb\xbf")))
fault("compressed-body", "400", refuse(lambda asked: "content-encoding" in asked.headers))
fault("http-1.0", "chunked", answer_if(lambda asked: asked.version == "HTTP/1.0", lambda answer: _chunk(answer)))
fault("server-wide", "500", crash(lambda asked: asked.path == "*" and asked.method == "GET"))
fault("server-wide", "OPTIONS", crash(lambda asked: asked.path == "*" and asked.method == "OPTIONS"))
fault("request-id", "none", header(lambda asked: True, "x-request-id", None))


def _chunk(answer: Answer) -> None:
    answer.framing = "chunked"


fault("whole-floats", "400", refuse(lambda asked: b'"max_tokens": 4.0' in asked.raw))
fault("broken-arguments", "cut", refuse(lambda asked: b'Par"' in asked.raw))
fault("broken-arguments", "empty", refuse(lambda asked: b'"arguments": ""' in asked.raw))
fault("hints", "400", refuse(has(CHAT, lambda body: "verbosity" in body)))
fault("empty-stop", "400", refuse(has(CHAT, lambda body: body.get("stop") == [""])))
fault(
    "empty-stop",
    "stops",
    whole(has(CHAT, lambda body: body.get("stop") == [""]), lambda body: put(body["usage"], "completion_tokens", 0)),
)
fault("many-stops", "400", refuse(has(CHAT, lambda body: len(body.get("stop") or []) > 4)))
fault("random-seed", "500", crash(has(CHAT, lambda body: body.get("seed") == -1)))
fault("deep-json", "500", crash(lambda asked: asked.raw.count(b'"items"') > 100))
fault("deep-json", "taken", answer_if(lambda asked: asked.raw.count(b'"items"') > 100, lambda answer: taken(answer)))
fault("annotations", "400", refuse(lambda asked: b"uniqueItems" in asked.raw))
fault(
    "closed-objects",
    "more",
    in_form(lambda body: put(first_choice(body)["message"], "content", '{"city": "Rome", "mayor": "?"}')),
)
fault(
    "closed-objects",
    "twice",
    in_form(lambda body: put(first_choice(body)["message"], "content", '{"city": "Rome", "city": "Oslo"}')),
)
fault(
    "legacy-functions",
    "no call",
    whole(has(CHAT, lambda body: "functions" in body), lambda body: first_choice(body)["message"].pop("function_call")),
)


def _calls(change: Callable[[Json], object]) -> Alter:
    """The function of each call of a whole reply at a high temperature is changed in place."""
    warm = has(CHAT, lambda body: body.get("temperature") == 1.5)
    return whole(warm, lambda body: change(first_choice(body)["message"]["tool_calls"][0]["function"]))


fault("known-calls", "name", _calls(lambda function: put(function, "name", "weather.Paris.London")))
fault("known-calls", "arguments", _calls(lambda function: put(function, "arguments", '{"city": "Berlin"}')))
fault("known-calls", "no JSON", _calls(lambda function: put(function, "arguments", '{"city": "Par')))
fault(
    "text-kept",
    "lost",
    whole(has(CHAT, lambda body: "lighthouse" in str(body)), lambda body: put(body["usage"], "prompt_tokens", 1)),
)


def _all_cached(body: Json) -> None:
    body["usage"]["prompt_tokens_details"]["cached_tokens"] = body["usage"]["prompt_tokens"]


fault("cached-tokens", "all", whole(has(CHAT, lambda body: "item59" in str(body)), _all_cached))
fault("required-keys", "no logprobs", whole(unstreamed(CHAT), lambda body: first_choice(body).pop("logprobs")))
fault("required-keys", "no refusal", whole(unstreamed(CHAT), lambda body: first_choice(body)["message"].pop("refusal")))


def taken(answer: Answer) -> None:
    """It is answered as if nothing were wrong."""
    answer.status = 200
    answer.say({"choices": []})


fault("unknown-fields", "400", refuse(has(CHAT, lambda body: "x_check" in body)))
fault("null-fields", "400", refuse(has(CHAT, lambda body: None in body.values())))


def _takes(field_name: str, value: object) -> Alter:
    def change(answer: Answer) -> None:
        answer.refuse(200, {"choices": []})

    return answer_if(has(CHAT, lambda body: body.get(field_name) == value), change)


fault("wrong-type", "temperature", _takes("temperature", "hot"))
fault("wrong-type", "not named", refuse(has(CHAT, lambda body: body.get("stream") == "perhaps")))
fault("out-of-range", "top_p", _takes("top_p", 7))
fault("out-of-range", "500", refuse(has(CHAT, lambda body: body.get("n") == 0), 500, "n"))
fault("no-messages", "not named", refuse(has(CHAT, lambda body: body and "messages" not in body)))


def _more_tokens(field_name: str) -> Alter:
    return whole(
        has(CHAT, lambda body: body.get(field_name) == 5), lambda body: put(body["usage"], "completion_tokens", 6)
    )


fault("max-tokens", "more", _more_tokens("max_tokens"))
fault("max-completion-tokens", "more", _more_tokens("max_completion_tokens"))
fault("stream-options", "400", refuse(has(CHAT, lambda body: body.get("stream_options") and not body.get("stream"))))


def _message(holds: Callable[[Json], Any]) -> Where:
    return has(CHAT, lambda body: any(holds(message) for message in body.get("messages") or []))


fault("content-parts", "400", refuse(_message(lambda message: isinstance(message["content"], list))))
fault("content-null-in", "500", refuse(_message(lambda message: message["content"] is None), 500))
fault("developer-role", "400", refuse(_message(lambda message: message["role"] == "developer")))
fault("empty-tools", "400", refuse(has(CHAT, lambda body: body.get("tools") == [])))
fault(
    "system-anywhere",
    "400",
    refuse(has(CHAT, lambda body: [m["role"] for m in body.get("messages") or []].count("system") > 1)),
)
fault("chat-answers", "text", header(unstreamed(CHAT), "content-type", "text/plain"))
fault("chat-whole", "object", whole(unstreamed(CHAT), lambda body: put(body, "object", "chat")))
fault("chat-whole", "no finish", whole(unstreamed(CHAT), lambda body: put(body["choices"][0], "finish_reason", None)))
fault("chat-content", "null", whole(unstreamed(CHAT), lambda body: put(body["choices"][0]["message"], "content", None)))
fault("chat-usage", "none", whole(unstreamed(CHAT), lambda body: body.pop("usage")))
fault("chat-usage", "no sum", whole(unstreamed(CHAT), lambda body: put(body["usage"], "total_tokens", 1)))
fault(
    "models", "no owner", whole(lambda asked: asked.path == "/v1/models", lambda body: body["data"][0].pop("owned_by"))
)
fault("model-by-id", "404", refuse(lambda asked: asked.path == "/v1/models/tiny", 404))

# Tool calls


def _fragments(change: Callable[[Json], object]) -> Alter:
    def one(choice: Json, found: Json) -> None:
        for fragment in found.get("tool_calls", []):
            change(fragment)

    return objects(streams(CHAT), delta(one))


def _first(name: str, value: object) -> Alter:
    def change(fragment: Json) -> None:
        if "id" in fragment:
            (fragment["function"] if name in ("name", "arguments") else fragment)[name] = value

    return _fragments(change)


fault("tool-first", "arguments", _first("arguments", " "))
fault("tool-first", "no type", _first("type", None))
fault("tool-first", "no id", _first("id", None))
fault("tool-first", "name", _first("name", ""))
fault("tool-later", "id", _fragments(lambda fragment: fragment.setdefault("id", "call-1")))
fault("tool-later", "name", _fragments(lambda fragment: fragment["function"].setdefault("name", "get_weather")))


def _two_in_one(found: list[bytes]) -> list[bytes]:
    calls = [place for place, piece in enumerate(found) if b'tool_calls": [' in piece]
    if len(calls) < 3:
        return found
    one, other = (json.loads(found[place][6:]) for place in calls[1:3])
    one["choices"][0]["delta"]["tool_calls"] += other["choices"][0]["delta"]["tool_calls"]
    return [*found[: calls[1]], b"data: " + json.dumps(one).encode() + b"\n\n", *found[calls[2] + 1 :]]


def _cut_arguments(fragment: Json) -> None:
    fragment["function"]["arguments"] = fragment["function"]["arguments"].replace("}", "")


def _whole_call(change: Callable[[Json], object]) -> Alter:
    def alter(body: Json) -> None:
        for call in body["choices"][0]["message"].get("tool_calls", []):
            change(call)

    return whole(at(CHAT), alter)


def _finish(chunk: Json, reason: str) -> Json:
    for choice in chunk["choices"]:
        if choice["finish_reason"]:
            choice["finish_reason"] = reason
    return chunk


with_tools = has(CHAT, lambda body: body.get("tools") and body.get("stream"))
fault("tool-one-a-chunk", "two", pieces(with_tools, _two_in_one))
fault("tool-arguments", "cut", _fragments(_cut_arguments))
fault("tool-finish", "stop", objects(with_tools, lambda chunk: _finish(chunk, "stop")))
fault("tool-whole", "an object", _whole_call(lambda call: put(call["function"], "arguments", {"city": "Paris"})))
fault("tool-whole", "no id", _whole_call(lambda call: call.pop("id")))

# The chat stream

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
fault("finish-values", "eos", objects(SHORT, lambda chunk: _finish(chunk, "eos")))

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

# Company and waits


def _mixes(server: ModelServer, asked: Asked, answer: Answer) -> None:
    if not has(CHAT, lambda body: "Zorblax" in str(body) or "bicycle" in str(body) or "months" in str(body))(asked):
        return
    with server.lock:
        server.memory.append(answer.body)
    time.sleep(0.2)
    with server.lock:
        answer.body = server.memory[0]
        server.running += 1
        if server.running == len(server.memory):
            server.memory.clear()
            server.running = 0


def _goes_on(server: ModelServer, asked: Asked, answer: Answer) -> None:
    server.cancels = False


def is_long(path: str) -> Where:
    """Requests there with a long prompt."""
    return has(path, lambda body: len(str(body).split()) > LONG_PROMPT and body.get("stream"))


def _silent(path: str, sign: bytes) -> Alter:
    def change(answer: Answer) -> None:
        place = next(
            place for place, piece in enumerate(answer.pieces or []) if sign in piece and place in answer.pauses
        )
        answer.pieces = [*(answer.pieces or [])[:place], *(answer.pieces or [])[place + SIGNS :]]
        answer.pauses = {place: 0.6}

    return answer_if(is_long(path), change)


def _slow_head(answer: Answer) -> None:
    answer.head_pause = 0.5


fault("concurrent", "mixed", _mixes)
fault("cancel", "goes on", _goes_on)
fault("headers-soon", "late", answer_if(is_long(CHAT), _slow_head), max_delay=0.3, long_prompt_words=LONG)
fault(
    "models-busy",
    "late",
    answer_if(lambda asked: asked.path == "/v1/models", _slow_head),
    max_delay=0.3,
    long_prompt_words=LONG,
)
fault("keep-alive", "silent", _silent(CHAT, b'"delta": {"content": ""}'), long_prompt_words=LONG)
fault(
    "keep-alive-form",
    "comments",
    each(is_long(CHAT), lambda piece: b": keep-alive\n\n" if b'"delta": {"content": ""}' in piece else piece),
    long_prompt_words=LONG,
)

# Text completions


def _text_finish(value: object) -> Callable[[Json], Json]:
    def change(chunk: Json) -> Json:
        for choice in chunk["choices"]:
            if choice["finish_reason"] is not None:
                choice["finish_reason"] = value
        return chunk

    return change


text_usage = has(COMPLETIONS, lambda body: body.get("stream_options"))
TEXT = streams(COMPLETIONS)
fault("completions-answers", "text", header(unstreamed(COMPLETIONS), "content-type", "text/plain"))
fault("completions-whole", "object", whole(unstreamed(COMPLETIONS), lambda body: put(body, "object", "completion")))
fault("completions-whole", "usage", whole(unstreamed(COMPLETIONS), lambda body: body.pop("usage")))
fault("completions-errors", "text", header(is_broken(COMPLETIONS), "content-type", "text/plain"))
fault("completions-head", "type", header(plain(COMPLETIONS), "content-type", "application/json"))
fault("completions-proxies", "buffering", header(plain(COMPLETIONS), "x-accel-buffering", None))
fault("completions-events", "no space", each(TEXT, lambda piece: piece.replace(b"data: ", b"data:")))
fault(
    "completions-chunks",
    "text",
    objects(TEXT, lambda chunk: {**chunk, "choices": [{**c, "text": None} for c in chunk["choices"]]}),
)
fault("completions-chunks", "object", objects(TEXT, lambda chunk: put(chunk, "object", "chat.completion.chunk")))
fault("completions-finish", "none", objects(TEXT, _text_finish(None)))
fault("completions-finish", "eos", objects(TEXT, _text_finish("eos")))
fault("completions-usage-chunk", "none", objects(text_usage, lambda chunk: chunk if chunk["choices"] else None))
fault("completions-done", "none", pieces(TEXT, lambda found: found[:-1]))

# Embeddings

one_text = has(
    EMBEDDINGS, lambda body: isinstance(body.get("input"), str) and not {"encoding_format", "dimensions"} & set(body)
)
fault("embeddings-answers", "text", header(one_text, "content-type", "text/plain"))
fault("embeddings-shape", "no usage", whole(one_text, lambda body: body.pop("usage")))
fault("embeddings-shape", "no object", whole(one_text, lambda body: body["data"][0].pop("object")))
fault(
    "embeddings-order", "reversed", whole(at(EMBEDDINGS), lambda body: body["data"].sort(key=lambda row: -row["index"]))
)
fault(
    "embeddings-order",
    "alike",
    whole(
        has(EMBEDDINGS, lambda body: len(body.get("input", "")) == 3),
        lambda body: [put(row, "embedding", [1.0, 2.0, 3.0]) for row in body["data"]],
    ),
)
fault(
    "embeddings-base64",
    "ignored",
    whole(
        has(EMBEDDINGS, lambda body: "encoding_format" in body), lambda body: put(body["data"][0], "embedding", [1.0])
    ),
)
fault(
    "embeddings-base64",
    "other numbers",
    whole(
        has(EMBEDDINGS, lambda body: "encoding_format" in body),
        lambda body: put(body["data"][0], "embedding", "AACAPwAAgD8AAAAA"),
    ),
)
fault(
    "embeddings-tokens",
    "400",
    refuse(
        has(
            EMBEDDINGS, lambda body: isinstance(body.get("input", "")[0:1], list) and isinstance(body["input"][0], list)
        )
    ),
)
fault(
    "embeddings-dimensions",
    "ignored",
    whole(
        has(EMBEDDINGS, lambda body: "dimensions" in body),
        lambda body: put(body["data"][0], "embedding", [1.0, 2.0, 3.0]),
    ),
)
fault("embeddings-errors", "text", header(is_broken(EMBEDDINGS), "content-type", "text/plain"))
fault("embeddings-errors", "not named", refuse(has(EMBEDDINGS, lambda body: "input" not in body)))

# Responses

RESPONSE = plain(RESPONSES)


def of_type(kind: str, change: Callable[[Json], Json | None]) -> Callable[[Json], Json | None]:
    """Objects whose type ends so are changed."""
    return lambda value: change(value) if str(value.get("type")).endswith(kind) else value


def renumbered(alter: Alter) -> Alter:
    """Afterwards the numbers rise by one again."""

    def both(server: ModelServer, asked: Asked, answer: Answer) -> None:
        alter(server, asked, answer)
        numbers = iter(range(10_000))
        if at(RESPONSES)(asked):
            objects(at(RESPONSES), lambda value: put(value, "sequence_number", next(numbers)))(server, asked, answer)

    return both


fault("responses-answers", "text", header(unstreamed(RESPONSES), "content-type", "text/plain"))
fault("responses-whole", "no usage", whole(unstreamed(RESPONSES), lambda body: put(body, "usage", None)))
fault(
    "responses-whole",
    "part",
    whole(unstreamed(RESPONSES), lambda body: put(body["output"][0]["content"][0], "type", "text")),
)
fault("responses-input", "400", refuse(has(RESPONSES, lambda body: "instructions" in body)))
fault(
    "responses-limit",
    "completed",
    whole(
        has(RESPONSES, lambda body: "hundred" in str(body.get("input"))), lambda body: put(body, "status", "completed")
    ),
)
fault("responses-errors", "text", header(is_broken(RESPONSES), "content-type", "text/plain"))
fault("responses-head", "twice", answer_if(RESPONSE, lambda answer: put(vars(answer), "tail", b"0\r\n\r\n")))
fault("responses-proxies", "cache", header(RESPONSE, "cache-control", None))
fault("responses-form", "no space", each(RESPONSE, lambda piece: piece.replace(b"data: ", b"data:")))
fault("responses-names", "none", each(RESPONSE, lambda piece: piece[piece.index(b"data") :]))
fault("responses-sequence", "all zero", objects(RESPONSE, lambda value: put(value, "sequence_number", 0)))
fault(
    "responses-begin",
    "no in_progress",
    renumbered(objects(RESPONSE, of_type("response.in_progress", lambda value: None))),
)
fault("responses-items", "no part", renumbered(objects(RESPONSE, of_type("content_part.added", lambda value: None))))
fault("responses-items", "not done", renumbered(objects(RESPONSE, of_type("content_part.done", lambda value: None))))
fault(
    "responses-text",
    "item",
    objects(RESPONSE, of_type("output_item.done", lambda value: put(value, "item", {**value["item"], "content": []}))),
)
fault("responses-text", "done", objects(RESPONSE, of_type("output_text.done", lambda value: put(value, "text", ""))))
fault(
    "responses-last",
    "none",
    objects(RESPONSE, lambda value: value if "usage" not in value.get("response", {}) else None),
)
fault("responses-last", "[DONE]", pieces(RESPONSE, lambda found: [*found, b"data: [DONE]\n\n"]))
fault("responses-usage", "none", objects(RESPONSE, lambda value: without_usage(value)))
fault(
    "responses-tool",
    "not JSON",
    objects(
        has(RESPONSES, lambda body: body.get("tools")),
        of_type("output_item.done", lambda value: put(value, "item", {**value["item"], "arguments": "Paris"})),
    ),
)
fault(
    "responses-tool",
    "no call_id",
    objects(
        has(RESPONSES, lambda body: body.get("tools")),
        of_type("output_item.done", lambda value: put(value, "item", without(value["item"], "call_id"))),
    ),
)
fault(
    "responses-keep-alive",
    "silent",
    renumbered(_silent(RESPONSES, b"event: response.in_progress")),
    long_prompt_words=LONG,
)
fault("responses-unknown", "400", refuse(has(RESPONSES, lambda body: "another_unknown_field" in body)))


fault("responses-hosted", "400", refuse(lambda asked: b"local_shell_call" in asked.raw))
fault("responses-broken-arguments", "400", refuse(has(RESPONSES, lambda body: "cut off" in str(body))))
fault("responses-brought-tools", "400", refuse(lambda asked: b"additional_tools" in asked.raw))
fault("responses-hints", "400", refuse(has(RESPONSES, lambda body: "text" in body)))
fault(
    "responses-input-items",
    "as sent",
    answer_if(
        lambda asked: asked.path.endswith("/input_items"),
        lambda answer: answer.say({"object": "list", "data": [{"role": "user", "content": "?"}]}),
    ),
)


def without_usage(value: Json) -> Json:
    """The last event without its usage."""
    if "usage" in value.get("response", {}):
        value["response"].pop("usage")
    return value


# Anthropic

MESSAGE = plain(MESSAGES)


def refuse_message(where: Where, status: int = 400) -> Alter:
    """An error in Anthropic's form."""
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "not taken here"}}
    return answer_if(where, lambda answer: answer.refuse(status, error))


message_tool = has(MESSAGES, lambda body: body.get("tools") and body.get("stream"))
fault("anthropic-answers", "text", header(unstreamed(MESSAGES), "content-type", "text/plain"))
fault("anthropic-headers", "400", refuse_message(lambda asked: "anthropic-beta" in asked.headers))
fault("anthropic-system", "blocks", refuse_message(has(MESSAGES, lambda body: isinstance(body.get("system"), list))))
fault("anthropic-blocks", "500", refuse_message(has(MESSAGES, lambda body: "tool_result" in str(body)), 500))
fault("anthropic-count", "404", refuse_message(at("/count_tokens"), 404))
fault("anthropic-whole", "no reason", whole(unstreamed(MESSAGES), lambda body: put(body, "stop_reason", None)))
fault("anthropic-errors", "OpenAI's", refuse(has(MESSAGES, lambda body: body.get("messages") == "none")))
fault("anthropic-head", "gzip", header(MESSAGE, "content-encoding", "gzip"))
fault("anthropic-proxies", "cache", header(MESSAGE, "cache-control", None))
fault("anthropic-form", "no space", each(MESSAGE, lambda piece: piece.replace(b"data: ", b"data:")))
fault("anthropic-names", "none", each(MESSAGE, lambda piece: piece[piece.index(b"data") :]))
fault(
    "anthropic-start",
    "no usage",
    objects(MESSAGE, of_type("message_start", lambda value: put(value, "message", without(value["message"], "usage")))),
)
fault("anthropic-order", "no stop", objects(MESSAGE, of_type("content_block_stop", lambda value: None)))
fault(
    "anthropic-order", "index", objects(MESSAGE, of_type("content_block_delta", lambda value: put(value, "index", 1)))
)
fault("anthropic-order", "no message_stop", objects(MESSAGE, of_type("message_stop", lambda value: None)))
fault(
    "anthropic-text",
    "type",
    objects(
        MESSAGE, of_type("content_block_delta", lambda value: put(value, "delta", {**value["delta"], "type": "text"}))
    ),
)
fault(
    "anthropic-text",
    "begun",
    objects(MESSAGE, of_type("block_start", lambda value: put(value, "content_block", {"type": "text", "text": "So"}))),
)
fault("anthropic-delta", "no reason", objects(MESSAGE, of_type("message_delta", lambda value: put(value, "delta", {}))))
fault("anthropic-delta", "no usage", objects(MESSAGE, of_type("message_delta", lambda value: put(value, "usage", {}))))
fault("anthropic-no-done", "[DONE]", pieces(MESSAGE, lambda found: [*found, b"data: [DONE]\n\n"]))
fault(
    "anthropic-tool",
    "input",
    objects(message_tool, of_type("block_start", lambda value: put(value["content_block"], "input", "") and value)),
)
fault(
    "anthropic-tool",
    "reason",
    objects(
        message_tool, of_type("message_delta", lambda value: put(value["delta"], "stop_reason", "end_turn") and value)
    ),
)
fault("anthropic-ping", "silent", _silent(MESSAGES, b"event: ping"), long_prompt_words=LONG)
fault(
    "anthropic-ping",
    "comments",
    each(is_long(MESSAGES), lambda piece: b": ping\n\n" if b"ping" in piece else piece),
    long_prompt_words=LONG,
)
fault("anthropic-unknown", "400", refuse_message(has(MESSAGES, lambda body: "another_unknown_field" in body)))

fault(
    "anthropic-usage",
    "another",
    objects(
        MESSAGE,
        lambda value: (
            put(value, "usage", {**value["usage"], "input_tokens": 1}) if value["type"] == "message_delta" else value
        ),
    ),
)


# Ollama

LINES = plain(OLLAMA)


def refuse_ollama(where: Where, status: int = 400) -> Alter:
    """An error in Ollama's form."""
    return answer_if(where, lambda answer: answer.refuse(status, {"error": "not taken here"}))


def got(path: str) -> Where:
    """GET requests there."""
    return lambda asked: asked.path == path and asked.method == "GET"


ollama_default = has(OLLAMA, lambda body: "stream" not in body)
fault("ollama-version", "none", whole(got("/api/version"), lambda body: put(body, "version", "")))
fault("ollama-version-alone", "more", whole(got("/api/version"), lambda body: put(body, "commit", "abc")))
fault("ollama-float-options", "400", refuse_ollama(lambda asked: b"8192.0" in asked.raw or b"2048.0" in asked.raw))
fault("ollama-capabilities", "no tools", whole(at("/api/show"), lambda body: body["capabilities"].remove("tools")))
fault("ollama-names", "404", refuse(has(CHAT, lambda body: str(body.get("model")).endswith(":latest")), 404))
fault("ollama-tags", "no model", whole(got("/api/tags"), lambda body: body["models"][0].pop("name")))
fault("ollama-tags", "time", whole(got("/api/tags"), lambda body: put(body["models"][0], "modified_at", "yesterday")))
fault("ollama-show", "404", refuse_ollama(at("/api/show"), 404))
fault("ollama-ps", "404", refuse_ollama(got("/api/ps"), 404))
fault("ollama-answers", "text", header(unstreamed(OLLAMA), "content-type", "text/plain"))
fault("ollama-whole", "no count", whole(unstreamed(OLLAMA), lambda body: body.pop("eval_count")))
fault("ollama-head", "type", header(LINES, "content-type", "text/event-stream"))
fault("ollama-lines", "blank", each(LINES, lambda piece: piece + b"\n"))
fault("ollama-lines", "CR LF", each(LINES, lambda piece: piece.replace(b"\n", b"\r\n")))
fault("ollama-default", "whole", pieces(ollama_default, lambda found: found[-1:]))
fault("ollama-times", "seconds", objects(LINES, lambda value: put(value, "created_at", 1700000000)))
fault(
    "ollama-message",
    "null",
    objects(
        LINES, lambda value: put(value, "message", {"role": "assistant", "content": None}) if value["done"] else value
    ),
)
fault("ollama-nulls", "count", objects(LINES, lambda value: value if value["done"] else put(value, "eval_count", None)))
fault("ollama-done", "never", objects(LINES, lambda value: put(value, "done", False)))
fault("ollama-done", "no reason", objects(LINES, lambda value: without(value, "done_reason")))
fault("ollama-generate", "404", refuse_ollama(at("/api/generate"), 404))
fault("ollama-errors", "OpenAI's", refuse(is_broken(OLLAMA)))


def _as_text(value: Json) -> Json:
    for call in value["message"].get("tool_calls", []):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return value


fault("ollama-tool", "a string", objects(has(OLLAMA, lambda body: body.get("tools")), _as_text))
fault("ollama-embed", "one", whole(at("/api/embed"), lambda body: body["embeddings"].pop()))
fault("ollama-keep-alive", "silent", _silent(OLLAMA, b'"content": ""'), long_prompt_words=LONG)
