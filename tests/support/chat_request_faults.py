"""Faults in OpenAI's chat requests and whole replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fault_rules import CHAT, Where, answer_if, fault, has, header, put, refuse, unstreamed, whole
from model_server import Alter, Answer, Json


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
