"""Faults in Ollama's API."""

from __future__ import annotations

import json

from concurrency_faults import silent
from fault_rules import (
    CHAT,
    LONG,
    OLLAMA,
    Where,
    answer_if,
    at,
    each,
    fault,
    has,
    header,
    is_broken,
    objects,
    pieces,
    plain,
    put,
    refuse,
    unstreamed,
    whole,
    without,
)
from model_server import Alter, Json

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
fault("ollama-keep-alive", "silent", silent(OLLAMA, b'"content": ""'), long_prompt_words=LONG)
