"""Requests that OpenAI's chat must take or refuse, whole replies, and the list of models."""

from __future__ import annotations

from typing import Any

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.dialects import OPENAI, find
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.tool_calls import TOOL
from tailrace.conformance.session import QUESTION, Session, describe, excerpt

THEME = Theme("Chat requests", OPENAI.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

#: Optional fields; each may be null.
_OPTIONAL = (
    "temperature", "top_p", "n", "stop", "max_completion_tokens", "presence_penalty", "frequency_penalty", "logit_bias",
    "user", "tools", "tool_choice", "response_format", "seed", "logprobs", "top_logprobs", "stream_options", "stream",
)  # fmt: skip


def _expect_taken(session: Session, **more: Any) -> str:
    """The plain question with those fields gets a 200."""
    # None means null here; ``question_body`` would remove the field.
    body = session.question_body(OPENAI, limit=4) | more
    return http_bodies.expect_ok(session.post(OPENAI, body))


def _user(content: Any = QUESTION) -> dict[str, Any]:
    return {"role": "user", "content": content}


@rule("unknown-fields", 11, "unknown fields are ignored", ERROR, "clients with parameters of their own get no answer")
def unknown_fields(session: Session) -> str:
    return _expect_taken(session, x_check={"a": [1]}, another_unknown_field=True)


@rule("null-fields", 11, "null equals absent", ERROR, "clients that send every field: no answer")
def null_fields(session: Session) -> str:
    return _expect_taken(session, **dict.fromkeys(_OPTIONAL))


@rule(
    "wrong-type",
    11,
    "a field of a wrong type is a 400 that names it",
    WARNING,
    "a mistake goes unnoticed, or has no reason",
)
def wrong_type(session: Session) -> str:
    seen = []
    for field, value in (("temperature", "hot"), ("stream", "perhaps"), ("max_tokens", "many")):
        body = session.question_body(OPENAI, limit=4) | {field: value}
        seen.append(http_bodies.expect_error_naming(session.post(OPENAI, body), field, f'"{value}"'))
    return ", ".join(seen)


@rule(
    "out-of-range",
    11,
    "a value out of range is a 400 that names it",
    WARNING,
    "a mistake goes unnoticed, or has no reason",
)
def out_of_range(session: Session) -> str:
    seen = []
    for field, value in (("temperature", -1), ("top_p", 7), ("n", 0)):
        body = session.question_body(OPENAI, limit=4) | {field: value}
        seen.append(http_bodies.expect_error_naming(session.post(OPENAI, body), field, str(value)))
    return ", ".join(seen)


@rule("no-messages", 11, "a request without messages is a 400 that names them", WARNING, "a mistake has no reason")
def no_messages(session: Session) -> str:
    reply = session.post(OPENAI, {"model": session.model, "max_tokens": 4})
    return http_bodies.expect_error_naming(reply, "messages", "left out")


@rule("max-tokens", 12, "max_tokens is obeyed", ERROR, "replies without end")
def max_tokens(session: Session) -> str:
    return _expect_limit(session, "max_tokens")


@rule(
    "max-completion-tokens",
    12,
    "max_completion_tokens is obeyed",
    ERROR,
    "newer clients send this alone: replies without end",
)
def max_completion_tokens(session: Session) -> str:
    return _expect_limit(session, "max_completion_tokens")


def _expect_limit(session: Session, field: str) -> str:
    body = session.question_body(OPENAI, "Count from one to fifty in words.", **{"max_tokens": None, field: 5})
    reply = session.post(OPENAI, body)
    require(reply.status == 200, describe(reply))
    count = find(reply.json(), "usage", "completion_tokens")
    if type(count) is not int:
        raise NotObserved("the reply tells no completion_tokens")
    require(count <= 5, f"{field} 5 gave {count} tokens")
    reason = find(reply.json(), "choices", 0, "finish_reason")
    require(count < 5 or reason == "length", f"finish_reason {reason!r} at the limit")
    return f"5 gave {count}, finish_reason {reason}"


@rule("stream-options", 12, "stream_options is taken in any request", ERROR, "clients that always send it: no answer")
def stream_options(session: Session) -> str:
    return _expect_taken(session, stream_options={"include_usage": True})


@rule("content-parts", 12, "content may be a list of parts", ERROR, "clients that send lists alone get no answer")
def content_parts(session: Session) -> str:
    parts = [{"type": "text", "text": "Write one short sentence"}, {"type": "text", "text": " about the sea."}]
    return _expect_taken(session, messages=[_user(parts)])


@rule(
    "content-null-in",
    12,
    "content may be null beside tool calls, and results follow",
    ERROR,
    "every second turn of an agent fails",
)
def content_null_in(session: Session) -> str:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    history = [
        _user("What is the weather in Paris?"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees."},
    ]
    return _expect_taken(session, messages=history, tools=[TOOL])


@rule("developer-role", 12, "the role developer is known", WARNING, "clients made for OpenAI's newer models: no answer")
def developer_role(session: Session) -> str:
    return _expect_taken(session, messages=[{"role": "developer", "content": "Be brief."}, _user()])


@rule("empty-tools", 12, "tools may be an empty list", WARNING, "clients without a tool switched on: no answer")
def empty_tools(session: Session) -> str:
    return _expect_taken(session, tools=[])


@rule(
    "system-anywhere",
    12,
    "several system messages, anywhere",
    WARNING,
    "clients with memories or notes between turns: no answer",
)
def system_anywhere(session: Session) -> str:
    system = {"role": "system", "content": "Be brief."}
    turns = [_user("Hello."), {"role": "assistant", "content": "Hello!"}, system, _user()]
    return _expect_taken(session, messages=[system, system, *turns])


# Whole replies


@rule("chat-answers", 26, "a chat is answered with 200 and JSON", ERROR, "every client")
def chat_answers(session: Session) -> str:
    reply = session.plain_response(OPENAI)
    require(reply.status == 200, describe(reply))
    require(reply.media_type.lower() == "application/json", f"content-type: {reply.header('content-type')}")
    require(isinstance(reply.json(), dict), f"no JSON object: {excerpt(reply.body)}")
    return "200"


@rule(
    "chat-whole",
    26,
    "a whole reply has id, object, created, model and one choice",
    ERROR,
    "typed clients fail to read it",
)
def chat_whole(session: Session) -> str:
    body = session.plain_answer(OPENAI)
    require(body.get("object") == "chat.completion", f"object is {body.get('object')!r}")
    for name, kind in (("id", str), ("created", int), ("model", str)):
        require(type(body.get(name)) is kind, f"{name} is {body.get(name)!r}")
    choices = body.get("choices")
    require(isinstance(choices, list) and len(choices) == 1, f"choices: {excerpt(str(choices))}")
    require(find(body, "choices", 0, "index") == 0, f"index is {find(body, 'choices', 0, 'index')!r}")
    role = find(body, "choices", 0, "message", "role")
    require(role == "assistant", f"role is {role!r}")
    reason = find(body, "choices", 0, "finish_reason")
    require(reason in ("stop", "length"), f"finish_reason is {reason!r}")
    return f"finish_reason {reason}"


@rule("chat-content", 26, "message.content is a string", ERROR, "clients that measure or show it crash")
def chat_content(session: Session) -> str:
    content = find(session.plain_answer(OPENAI), "choices", 0, "message", "content")
    require(isinstance(content, str), f"content is {content!r}")
    return repr(content[:40])


@rule(
    "chat-usage",
    26,
    "usage is there, in integers over zero",
    WARNING,
    "relays bill zero; clients can't show the context's use",
)
def chat_usage(session: Session) -> str:
    return http_bodies.expect_usage_sum(session.plain_answer(OPENAI).get("usage"))


# The list of models


@rule("models", 8, "the list of models has its shape", ERROR, "clients have no model to choose")
def models(session: Session) -> str:
    reply = session.request("GET", f"{session.target.api}/models", dialect=OPENAI)
    require(reply.status == 200, describe(reply))
    body = reply.json()
    require(find(body, "object") == "list", f"object is {find(body, 'object')!r}")
    data = find(body, "data")
    require(isinstance(data, list) and data, f"data is {excerpt(str(data))}")
    for model in data:
        for name, kind in (("id", str), ("created", int), ("owned_by", str)):
            require(type(find(model, name)) is kind, f"{name} is {find(model, name)!r}")
        require(find(model, "object") == "model", f"object is {find(model, 'object')!r}")
    return f"{len(data)} models"


@rule(
    "model-by-id",
    8,
    "a model is found by its id",
    WARNING,
    "clients that check their model's name say that there is none",
)
def model_by_id(session: Session) -> str:
    reply = session.request("GET", f"{session.target.api}/models/{session.model}", dialect=OPENAI)
    require(reply.status == 200, describe(reply))
    require(find(reply.json(), "id") == session.model, f"id is {find(reply.json(), 'id')!r}")
    return "200"
