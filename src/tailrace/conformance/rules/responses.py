"""OpenAI's Responses: the events of a stream and their order, whole responses."""

from __future__ import annotations

import json
from typing import Any

from tailrace.conformance import judge, named
from tailrace.conformance.dialects import RESPONSES, Json, find
from tailrace.conformance.events import Event, Stream
from tailrace.conformance.rule import Broken, NotSeen, Severity, Theme, expect
from tailrace.conformance.rules.tools import SCHEMA, TEXT, TOKENS, TOOL
from tailrace.conformance.rules.waits import long_text
from tailrace.conformance.session import QUESTION, Session, shown, summary

THEME = Theme("Responses", RESPONSES.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_LAST = ("response.completed", "response.incomplete", "response.failed")
_TOOL: Json = {"type": "function", "name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA}


def _plain(session: Session) -> Stream:
    return session.streamed(RESPONSES)


def _last(stream: Stream) -> Json:
    """The last event, which is one that ends a response; NotSeen otherwise, for there is a rule that tells it."""
    if not stream.objects or stream.objects[-1].get("type") not in _LAST:
        raise NotSeen("the stream has no last event")
    return stream.objects[-1]


@rule("responses-answers", 32, "a response is answered with 200 and output", ERROR, "every client")
def answers(session: Session) -> str:
    return judge.answers(session, RESPONSES)


@rule(
    "responses-whole",
    32,
    "a whole response: id, object, status, output items, integer usage",
    ERROR,
    "SDKs fail to read it",
)
def whole(session: Session) -> str:
    body = session.answered(RESPONSES)
    expect(body.get("object") == "response", f"object is {body.get('object')!r}")
    expect(isinstance(body.get("id"), str) and body["id"], f"id is {body.get('id')!r}")
    expect(body.get("status") in ("completed", "incomplete"), f"status is {body.get('status')!r}")
    messages = [item for item in body.get("output") or [] if find(item, "type") == "message"]
    expect(messages or body["status"] == "incomplete", "no message in the output")
    for message in messages:
        expect(find(message, "role") == "assistant", f"role is {find(message, 'role')!r}")
        kind = find(message, "content", 0, "type")
        expect(kind == "output_text", f"content[0].type is {kind!r}")
    return _usage(body)


def _usage(response: Json) -> str:
    return judge.counts(response.get("usage"), "input_tokens", "output_tokens", "total_tokens")


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
    body = session.question(RESPONSES, limit=16, input=turns, instructions="You are a poet.")
    return judge.accepted(session, session.post(RESPONSES, body))


@rule(
    "responses-limit",
    32,
    "a response that is cut is incomplete, and says max_output_tokens",
    WARNING,
    "agents take a piece for the whole",
)
def limit(session: Session) -> str:
    for text in (QUESTION, "Count from one to two hundred, in words."):
        response = session.post(RESPONSES, session.question(RESPONSES, text, limit=16)).json()
        count = find(response, "usage", "output_tokens")
        if type(count) is int and count >= 16:
            break
    else:
        raise NotSeen("the replies were shorter than their limit")
    reason = find(response, "incomplete_details", "reason")
    seen = f"status {find(response, 'status')}, reason {reason}"
    expect(find(response, "status") == "incomplete" and reason == "max_output_tokens", seen)
    return seen


@rule("responses-errors", 7, "a broken body is a 4xx with the error as JSON", ERROR, "clients show no reason")
def errors(session: Session) -> str:
    return judge.refused(RESPONSES, session.post(RESPONSES, b'{"broken"'), (400, 422))


@rule(
    "responses-head", 6, "the stream's head and end are as the chat's", ERROR, "clients wait for ever or show raw text"
)
def head(session: Session) -> str:
    return judge.head(session.stream(RESPONSES), RESPONSES)


@rule(
    "responses-proxies",
    6,
    "cache-control is no-cache, x-accel-buffering is no",
    WARNING,
    "proxies in between hold the stream back",
)
def proxies(session: Session) -> str:
    return judge.proxies(session.streamed(RESPONSES))


@rule(
    "responses-form",
    14,
    "each event is an event: and a data: line, two LF behind them",
    ERROR,
    "line readers drop others",
)
def form(session: Session) -> str:
    return named.form(_plain(session))


@rule("responses-names", 32, "event: equals the data's type", ERROR, "SDKs dispatch on the one or on the other")
def names(session: Session) -> str:
    return named.names(_plain(session))


@rule(
    "responses-sequence", 32, "sequence_number rises by one", WARNING, "clients that resume or sort by it lose events"
)
def sequence(session: Session) -> str:
    numbers = [value.get("sequence_number") for value in _plain(session).objects]
    first = numbers[0]
    if not isinstance(first, int):
        raise Broken(f"sequence_number is {first!r}")
    expect(numbers == list(range(first, first + len(numbers))), shown(str(numbers)))
    return f"{numbers[0]} to {numbers[-1]}"


@rule(
    "responses-begin",
    32,
    "response.created, then response.in_progress, both with the response",
    ERROR,
    "SDKs that gather a response begin with it",
)
def begin(session: Session) -> str:
    objects = _plain(session).objects
    kinds = [value.get("type") for value in objects[:2]]
    expect(kinds == ["response.created", "response.in_progress"], f"the stream begins {kinds}")
    for value in objects[:2]:
        ident = find(value, "response", "id")
        expect(isinstance(ident, str) and ident, f"response.id is {ident!r} in {value['type']}")
    return "both"


@rule(
    "responses-items",
    32,
    "each item and part is added, then done, in this order",
    ERROR,
    "clients that build the reply by its items fail",
)
def items(session: Session) -> str:
    stream = _plain(session)
    for what, place in (("output_item", "output_index"), ("content_part", "content_index")):
        added = named.of(stream, f"response.{what}.added")
        ended = named.of(stream, f"response.{what}.done")
        expect(added, f"no response.{what}.added")
        places = [[(value.get("output_index"), value.get(place)) for value in half] for half in (added, ended)]
        expect(
            sorted(map(str, places[0])) == sorted(map(str, places[1])), f"{what}: {len(added)} added, {len(ended)} done"
        )
        for start, stop in zip(added, ended, strict=True):
            expect(stream.objects.index(start) < stream.objects.index(stop), f"{what} done before it is added")
    first = next((value for value in stream.objects if str(value.get("type")).endswith(".delta")), None)
    if first is not None:
        part = named.of(stream, "response.content_part.added")[0]
        begun = stream.objects.index(part) < stream.objects.index(first) or "reasoning" in first["type"]
        expect(begun, "a delta before its part was added")
    return f"{len(named.of(stream, 'response.output_item.added'))} items"


@rule(
    "responses-text",
    32,
    "deltas, output_text.done and output_item.done have the same text",
    ERROR,
    "Codex takes the text from output_item.done",
)
def text(session: Session) -> str:
    stream = _plain(session)
    joined = "".join(str(value.get("delta")) for value in named.of(stream, "response.output_text.delta"))
    if not joined:
        raise NotSeen("no text in the response")
    ended = "".join(str(value.get("text")) for value in named.of(stream, "response.output_text.done"))
    expect(ended == joined, f"the deltas say {shown(joined, 40)!r}, output_text.done {shown(ended, 40)!r}")
    parts = [
        part for value in named.of(stream, "response.output_item.done") for part in find(value, "item", "content") or []
    ]
    full = "".join(str(find(part, "text")) for part in parts if find(part, "type") == "output_text")
    expect(full == joined, f"the deltas say {shown(joined, 40)!r}, output_item.done {shown(full, 40)!r}")
    return repr(shown(joined, 40))


@rule(
    "responses-last",
    32,
    "the last event is response.completed, .incomplete or .failed, nothing behind it",
    ERROR,
    "Codex asks again when it is missing",
)
def last(session: Session) -> str:
    stream = _plain(session)
    ends = [value["type"] for value in stream.objects if value.get("type") in _LAST]
    expect(len(ends) == 1, f"{len(ends)} of them")
    expect(stream.objects[-1].get("type") in _LAST, f"behind it comes {stream.objects[-1].get('type')!r}")
    expect(stream.events[-1].object is stream.objects[-1] or stream.events[-1].object == stream.objects[-1],
           f"behind it comes {shown(stream.events[-1].raw)}")  # fmt: skip
    return str(ends[0])


@rule(
    "responses-usage",
    32,
    "the last event has the response: same id, its output, integer usage",
    ERROR,
    "Codex fails to read it",
)
def usage(session: Session) -> str:
    stream = _plain(session)
    response = find(_last(stream), "response")
    first = find(stream.objects[0], "response", "id")
    expect(find(response, "id") == first or first is None, f"id {find(response, 'id')!r}, which began as {first!r}")
    expect(isinstance(find(response, "output"), list), "no output")
    return _usage(response)


@rule(
    "responses-tool",
    32,
    "a tool call is an item with call_id, name and arguments of JSON, done whole",
    ERROR,
    "Codex takes tool calls from output_item.done",
)
def tool(session: Session) -> str:
    for choice in ("required", "auto"):
        fields: dict[str, Any] = {"tools": [_TOOL], "tool_choice": choice, "max_output_tokens": TOKENS}
        if session.stream(RESPONSES, f"tool {choice}", TEXT, **fields).reply.status == 200:
            stream = session.streamed(RESPONSES, f"tool {choice}", TEXT, **fields)
            found = [value["item"] for value in named.of(stream, "response.output_item.done")
                     if find(value, "item", "type") == "function_call"]  # fmt: skip
            if found:
                break
    else:
        raise NotSeen("the model called no tool")
    joined = "".join(str(value.get("delta")) for value in named.of(stream, "response.function_call_arguments.delta"))
    for item in found:
        expect(isinstance(item.get("call_id"), str) and item["call_id"], f"call_id is {item.get('call_id')!r}")
        expect(item.get("name") == "get_weather", f"name is {item.get('name')!r}")
        if stream.objects[-1].get("type") == "response.incomplete":
            raise NotSeen("the response was cut at its token limit")
        expect(_is_object(item.get("arguments")), f"arguments are {shown(str(item.get('arguments')))}")
    whole = "".join(item["arguments"] for item in found)
    expect(joined == whole, f"the deltas say {shown(joined, 40)}, the item {shown(whole, 40)}")
    return shown(whole)


def _is_object(value: Any) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except (TypeError, ValueError):
        return False


@rule(
    "responses-keep-alive",
    30,
    "a silent stream shows life by an event without text",
    WARNING,
    "Codex gives up after 300 s without one",
)
def keep_alive(session: Session) -> str:
    body = {"max_output_tokens": 16}
    streams = [_plain(session), session.streamed(RESPONSES, "long prompt", _long(session), **body)]

    def is_sign(event: Event) -> bool:
        value = event.object
        again = (value or {}).get("type") == "response.in_progress"
        return again and any(event is other for stream in streams for other in stream.events[2:])

    return judge.silences(streams, session.limits.silence, is_sign)


def _long(session: Session) -> str:
    return long_text(session.limits.long_prompt, 30)


@rule("responses-unknown", 11, "unknown fields are ignored", ERROR, "clients with newer fields get no answer")
def unknown(session: Session) -> str:
    reply = session.post(RESPONSES, session.question(RESPONSES, limit=16, another_unknown_field=True))
    expect(reply.status == 200, summary(reply))
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
    return judge.accepted(session, session.post(RESPONSES, session.question(RESPONSES, limit=16, input=items)))


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
    return judge.accepted(session, session.post(RESPONSES, session.question(RESPONSES, limit=16, input=items)))


@rule(
    "responses-hints",
    12,
    "verbosity and reasoning.summary are taken as hints",
    WARNING,
    "openai-agents sends them unasked: no answer",
)
def hints(session: Session) -> str:
    more = {"text": {"verbosity": "low"}, "reasoning": {"effort": "low", "summary": "concise"}}
    return judge.accepted(session, session.post(RESPONSES, session.question(RESPONSES, limit=16) | more))


@rule(
    "responses-input-items",
    32,
    "a stored response's input is listed as parts, with ids and a status",
    NOTE,
    "typed clients fail to read the list",
)
def input_items(session: Session) -> str:
    reply = session.post(RESPONSES, session.question(RESPONSES, limit=16, store=True))
    identity = find(reply.json(), "id")
    path = f"{RESPONSES.path(session.target)}/{identity}/input_items"
    listed = session.ask("GET", path, dialect=RESPONSES)
    if listed.status != 200:
        raise NotSeen(f"nothing is kept: {summary(listed)}")
    for item in find(listed.json(), "data") or []:
        expect(isinstance(find(item, "content"), list), f"content is {shown(str(find(item, 'content')))}")
        for name in ("id", "status", "type"):
            expect(isinstance(find(item, name), str), f"{name} is {find(item, name)!r}")
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
    return judge.accepted(session, session.post(RESPONSES, session.question(RESPONSES, limit=16, input=items)))
