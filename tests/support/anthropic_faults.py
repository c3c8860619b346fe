"""Faults in Anthropic's Messages."""

from __future__ import annotations

from concurrency_faults import is_long, silent
from fault_rules import (
    LONG,
    MESSAGES,
    Where,
    answer_if,
    at,
    each,
    fault,
    has,
    header,
    objects,
    pieces,
    plain,
    put,
    refuse,
    unstreamed,
    whole,
    without,
)
from model_server import Alter
from responses_faults import of_type

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
fault("anthropic-ping", "silent", silent(MESSAGES, b"event: ping"), long_prompt_words=LONG)
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
