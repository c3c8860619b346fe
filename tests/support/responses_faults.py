"""Faults in OpenAI's Responses."""

from __future__ import annotations

from collections.abc import Callable

from concurrency_faults import silent
from fault_rules import (
    LONG,
    RESPONSES,
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
from model_server import Alter, Answer, Asked, Json, ModelServer

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
    renumbered(silent(RESPONSES, b"event: response.in_progress")),
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
