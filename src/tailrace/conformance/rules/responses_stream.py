"""OpenAI's Responses: the events of a stream and their order."""

from __future__ import annotations

import json
from typing import Any

from tailrace.conformance.assertions import keep_alives, named_events, stream_headers
from tailrace.conformance.dialects import RESPONSES, Json, find
from tailrace.conformance.events import RecordedStream, StreamEvent
from tailrace.conformance.outcome import NotObserved, RuleBroken, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.latency import long_text
from tailrace.conformance.rules.responses import usage_counts
from tailrace.conformance.rules.tool_calls import CALL_TOKENS, SCHEMA, TOOL_PROMPT
from tailrace.conformance.session import Session, excerpt

THEME = Theme("Responses stream", RESPONSES.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")
_TOOL: Json = {"type": "function", "name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA}


def _plain(session: Session) -> RecordedStream:
    return session.streamed_answer(RESPONSES)


def _last_event(stream: RecordedStream) -> Json:
    """The last event, which ends the response. Raises NotObserved for another one (rule ``responses-last``)."""
    if not stream.objects or stream.objects[-1].get("type") not in _LAST_EVENTS:
        raise NotObserved("the stream has no last event")
    return stream.objects[-1]


@rule(
    "responses-head", 6, "the stream's head and end are as the chat's", ERROR, "clients wait for ever or show raw text"
)
def head(session: Session) -> str:
    return stream_headers.expect_stream_head(session.stream_response(RESPONSES), RESPONSES)


@rule(
    "responses-proxies",
    6,
    "cache-control is no-cache, x-accel-buffering is no",
    WARNING,
    "proxies in between hold the stream back",
)
def proxies(session: Session) -> str:
    return stream_headers.expect_proxy_headers(session.streamed_answer(RESPONSES))


@rule(
    "responses-form",
    14,
    "each event is an event: and a data: line, two LF behind them",
    ERROR,
    "line readers drop others",
)
def form(session: Session) -> str:
    return named_events.expect_form(_plain(session))


@rule("responses-names", 32, "event: equals the data's type", ERROR, "SDKs dispatch on the one or on the other")
def names(session: Session) -> str:
    return named_events.expect_names_match(_plain(session))


@rule(
    "responses-sequence", 32, "sequence_number rises by one", WARNING, "clients that resume or sort by it lose events"
)
def sequence(session: Session) -> str:
    numbers = [value.get("sequence_number") for value in _plain(session).objects]
    first = numbers[0]
    if not isinstance(first, int):
        raise RuleBroken(f"sequence_number is {first!r}")
    require(numbers == list(range(first, first + len(numbers))), excerpt(str(numbers)))
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
    require(kinds == ["response.created", "response.in_progress"], f"the stream begins {kinds}")
    for value in objects[:2]:
        ident = find(value, "response", "id")
        require(isinstance(ident, str) and ident, f"response.id is {ident!r} in {value['type']}")
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
        added = named_events.of_type(stream, f"response.{what}.added")
        ended = named_events.of_type(stream, f"response.{what}.done")
        require(added, f"no response.{what}.added")
        places = [[(value.get("output_index"), value.get(place)) for value in half] for half in (added, ended)]
        require(
            sorted(map(str, places[0])) == sorted(map(str, places[1])), f"{what}: {len(added)} added, {len(ended)} done"
        )
        for start, stop in zip(added, ended, strict=True):
            require(stream.objects.index(start) < stream.objects.index(stop), f"{what} done before it is added")
    first = next((value for value in stream.objects if str(value.get("type")).endswith(".delta")), None)
    if first is not None:
        part = named_events.of_type(stream, "response.content_part.added")[0]
        begun = stream.objects.index(part) < stream.objects.index(first) or "reasoning" in first["type"]
        require(begun, "a delta before its part was added")
    return f"{len(named_events.of_type(stream, 'response.output_item.added'))} items"


@rule(
    "responses-text",
    32,
    "deltas, output_text.done and output_item.done have the same text",
    ERROR,
    "Codex takes the text from output_item.done",
)
def text(session: Session) -> str:
    stream = _plain(session)
    joined = "".join(str(value.get("delta")) for value in named_events.of_type(stream, "response.output_text.delta"))
    if not joined:
        raise NotObserved("no text in the response")
    ended = "".join(str(value.get("text")) for value in named_events.of_type(stream, "response.output_text.done"))
    require(ended == joined, f"the deltas say {excerpt(joined, 40)!r}, output_text.done {excerpt(ended, 40)!r}")
    parts = [
        part
        for value in named_events.of_type(stream, "response.output_item.done")
        for part in find(value, "item", "content") or []
    ]
    full = "".join(str(find(part, "text")) for part in parts if find(part, "type") == "output_text")
    require(full == joined, f"the deltas say {excerpt(joined, 40)!r}, output_item.done {excerpt(full, 40)!r}")
    return repr(excerpt(joined, 40))


@rule(
    "responses-last",
    32,
    "the last event is response.completed, .incomplete or .failed, nothing behind it",
    ERROR,
    "Codex asks again when it is missing",
)
def last(session: Session) -> str:
    stream = _plain(session)
    ends = [value["type"] for value in stream.objects if value.get("type") in _LAST_EVENTS]
    require(len(ends) == 1, f"{len(ends)} of them")
    require(stream.objects[-1].get("type") in _LAST_EVENTS, f"behind it comes {stream.objects[-1].get('type')!r}")
    require(stream.events[-1].object is stream.objects[-1] or stream.events[-1].object == stream.objects[-1],
           f"behind it comes {excerpt(stream.events[-1].raw)}")  # fmt: skip
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
    response = find(_last_event(stream), "response")
    first = find(stream.objects[0], "response", "id")
    require(find(response, "id") == first or first is None, f"id {find(response, 'id')!r}, which began as {first!r}")
    require(isinstance(find(response, "output"), list), "no output")
    return usage_counts(response)


@rule(
    "responses-tool",
    32,
    "a tool call is an item with call_id, name and arguments of JSON, done whole",
    ERROR,
    "Codex takes tool calls from output_item.done",
)
def tool(session: Session) -> str:
    for choice in ("required", "auto"):
        fields: dict[str, Any] = {"tools": [_TOOL], "tool_choice": choice, "max_output_tokens": CALL_TOKENS}
        if session.stream_response(RESPONSES, f"tool {choice}", TOOL_PROMPT, **fields).reply.status == 200:
            stream = session.streamed_answer(RESPONSES, f"tool {choice}", TOOL_PROMPT, **fields)
            found = [value["item"] for value in named_events.of_type(stream, "response.output_item.done")
                     if find(value, "item", "type") == "function_call"]  # fmt: skip
            if found:
                break
    else:
        raise NotObserved("the model called no tool")
    joined = "".join(
        str(value.get("delta")) for value in named_events.of_type(stream, "response.function_call_arguments.delta")
    )
    for item in found:
        require(isinstance(item.get("call_id"), str) and item["call_id"], f"call_id is {item.get('call_id')!r}")
        require(item.get("name") == "get_weather", f"name is {item.get('name')!r}")
        if stream.objects[-1].get("type") == "response.incomplete":
            raise NotObserved("the response was cut at its token limit")
        require(_is_object(item.get("arguments")), f"arguments are {excerpt(str(item.get('arguments')))}")
    whole = "".join(item["arguments"] for item in found)
    require(joined == whole, f"the deltas say {excerpt(joined, 40)}, the item {excerpt(whole, 40)}")
    return excerpt(whole)


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
    streams = [_plain(session), session.streamed_answer(RESPONSES, "long prompt", _long(session), **body)]

    def is_sign(event: StreamEvent) -> bool:
        value = event.object
        again = (value or {}).get("type") == "response.in_progress"
        return again and any(event is other for stream in streams for other in stream.events[2:])

    return keep_alives.expect_no_long_silence(streams, session.limits.max_silence, is_sign)


def _long(session: Session) -> str:
    return long_text(session.limits.long_prompt_words, 30)
