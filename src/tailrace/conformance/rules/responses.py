"""OpenAI's Responses: whole responses, and what requests may contain."""

from __future__ import annotations

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.dialects import RESPONSES, Json, find
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.tool_calls import TOOL
from tailrace.conformance.session import QUESTION, Session, describe, excerpt

THEME = Theme("Responses", RESPONSES.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@rule("responses-answers", 32, "a response is answered with 200 and output", ERROR, "every client")
def answers(session: Session) -> str:
    return http_bodies.expect_answer(session, RESPONSES)


@rule(
    "responses-whole",
    32,
    "a whole response: id, object, status, output items, integer usage",
    ERROR,
    "SDKs fail to read it",
)
def whole(session: Session) -> str:
    body = session.plain_answer(RESPONSES)
    require(body.get("object") == "response", f"object is {body.get('object')!r}")
    require(isinstance(body.get("id"), str) and body["id"], f"id is {body.get('id')!r}")
    require(body.get("status") in ("completed", "incomplete"), f"status is {body.get('status')!r}")
    messages = [item for item in body.get("output") or [] if find(item, "type") == "message"]
    require(messages or body["status"] == "incomplete", "no message in the output")
    for message in messages:
        require(find(message, "role") == "assistant", f"role is {find(message, 'role')!r}")
        kind = find(message, "content", 0, "type")
        require(kind == "output_text", f"content[0].type is {kind!r}")
    return usage_counts(body)


def usage_counts(response: Json) -> str:
    """The response's token counts are integers over zero."""
    return http_bodies.expect_positive_counts(response.get("usage"), "input_tokens", "output_tokens", "total_tokens")


@rule(
    "responses-input",
    32,
    "the input may be a list of messages and parts, beside instructions",
    ERROR,
    "Codex and agents send lists alone",
)
def input_list(session: Session) -> str:
    parts = [{"type": "input_text", "text": QUESTION}]
    turns = [{"type": "message", "role": "user", "content": parts}, {"role": "user", "content": "Be brief."}]
    body = session.question_body(RESPONSES, limit=16, input=turns, instructions="You are a poet.")
    return http_bodies.expect_ok(session.post(RESPONSES, body))


@rule(
    "responses-limit",
    32,
    "a response that is cut is incomplete, and says max_output_tokens",
    WARNING,
    "agents take a piece for the whole",
)
def limit(session: Session) -> str:
    for text in (QUESTION, "Count from one to two hundred, in words."):
        response = session.post(RESPONSES, session.question_body(RESPONSES, text, limit=16)).json()
        count = find(response, "usage", "output_tokens")
        if type(count) is int and count >= 16:
            break
    else:
        raise NotObserved("the replies were shorter than their limit")
    reason = find(response, "incomplete_details", "reason")
    seen = f"status {find(response, 'status')}, reason {reason}"
    require(find(response, "status") == "incomplete" and reason == "max_output_tokens", seen)
    return seen


@rule("responses-errors", 7, "a broken body is a 4xx with the error as JSON", ERROR, "clients show no reason")
def errors(session: Session) -> str:
    return http_bodies.expect_error(RESPONSES, session.post(RESPONSES, b'{"broken"'), (400, 422))


@rule("responses-unknown", 11, "unknown fields are ignored", ERROR, "clients with newer fields get no answer")
def unknown(session: Session) -> str:
    reply = session.post(RESPONSES, session.question_body(RESPONSES, limit=16, another_unknown_field=True))
    require(reply.status == 200, describe(reply))
    return "200"


@rule(
    "responses-hosted",
    11,
    "items of another server's own tools are read or passed over",
    ERROR,
    "a session that changed its server fails for ever (Codex)",
)
def hosted(session: Session) -> str:
    items = [
        {"role": "user", "content": "List the files."},
        {"type": "local_shell_call", "id": "ls_1", "call_id": "call_1", "status": "completed"}
        | {"action": {"type": "exec", "command": ["ls"], "env": {}}},
        {"type": "local_shell_call_output", "id": "call_1", "output": "a.txt"},
        {
            "type": "web_search_call",
            "id": "ws_1",
            "status": "completed",
            "action": {"type": "search", "query": "tides"},
        },
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "AAAA"},
        {"role": "user", "content": QUESTION},
    ]
    return http_bodies.expect_ok(session.post(RESPONSES, session.question_body(RESPONSES, limit=16, input=items)))


@rule(
    "responses-brought-tools",
    11,
    "tools may come as an item, additional_tools",
    WARNING,
    "Codex from 0.150 on sends all of its tools so",
)
def brought_tools(session: Session) -> str:
    tool = {"type": "function", **TOOL["function"]}
    items = [{"type": "additional_tools", "role": "developer", "tools": [tool]}, {"role": "user", "content": QUESTION}]
    return http_bodies.expect_ok(session.post(RESPONSES, session.question_body(RESPONSES, limit=16, input=items)))


@rule(
    "responses-hints",
    12,
    "verbosity and reasoning.summary are taken as hints",
    WARNING,
    "openai-agents sends them unasked: no answer",
)
def hints(session: Session) -> str:
    more = {"text": {"verbosity": "low"}, "reasoning": {"effort": "low", "summary": "concise"}}
    return http_bodies.expect_ok(session.post(RESPONSES, session.question_body(RESPONSES, limit=16) | more))


@rule(
    "responses-input-items",
    32,
    "a stored response's input is listed as parts, with ids and a status",
    NOTE,
    "typed clients fail to read the list",
)
def input_items(session: Session) -> str:
    reply = session.post(RESPONSES, session.question_body(RESPONSES, limit=16, store=True))
    identity = find(reply.json(), "id")
    path = f"{RESPONSES.path(session.target)}/{identity}/input_items"
    listed = session.request("GET", path, dialect=RESPONSES)
    if listed.status != 200:
        raise NotObserved(f"nothing is kept: {describe(listed)}")
    for item in find(listed.json(), "data") or []:
        require(isinstance(find(item, "content"), list), f"content is {excerpt(str(find(item, 'content')))}")
        for name in ("id", "status", "type"):
            require(isinstance(find(item, name), str), f"{name} is {find(item, name)!r}")
    return f"{len(find(listed.json(), 'data') or [])} items"


@rule(
    "responses-broken-arguments",
    12,
    "an earlier call whose arguments were cut is no reason to refuse",
    ERROR,
    "a call that the limit has cut: the conversation fails for ever",
)
def broken_arguments(session: Session) -> str:
    items = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Par'},
        {"type": "function_call_output", "call_id": "call_1", "output": "The call was cut off."},
        {"role": "user", "content": QUESTION},
    ]
    return http_bodies.expect_ok(session.post(RESPONSES, session.question_body(RESPONSES, limit=16, input=items)))
