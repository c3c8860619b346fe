"""Anthropic's Messages."""

from __future__ import annotations

import json
from typing import Any

from tailrace.conformance.assertions import http_bodies, keep_alives, named_events, stream_headers
from tailrace.conformance.dialects import ANTHROPIC, Json, find
from tailrace.conformance.events import RecordedStream, StreamEvent
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.latency import long_text
from tailrace.conformance.rules.tool_calls import CALL_TOKENS, SCHEMA, TOOL_PROMPT
from tailrace.conformance.session import QUESTION, Session, describe, excerpt

THEME = Theme("Anthropic", ANTHROPIC.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

_REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal")
_TOOL: Json = {"name": "get_weather", "description": "The weather in a city.", "input_schema": SCHEMA}


def _plain(session: Session) -> RecordedStream:
    return session.streamed_answer(ANTHROPIC)


@rule("anthropic-answers", 13, "a message is answered with 200 and content", ERROR, "every client")
def answers(session: Session) -> str:
    return http_bodies.expect_answer(session, ANTHROPIC)


@rule(
    "anthropic-headers",
    13,
    "?beta=true and anthropic-beta are taken",
    ERROR,
    "Claude Code sends them with every request",
)
def headers(session: Session) -> str:
    path = ANTHROPIC.path(session.target) + "?beta=true"
    reply = session.request(
        "POST",
        path,
        session.question_body(ANTHROPIC, limit=4),
        {"anthropic-beta": "fine-grained-tool-streaming-2025-05-14"},
        dialect=ANTHROPIC,
    )
    return http_bodies.expect_ok(reply)


@rule("anthropic-system", 13, "system may be a string or blocks, with cache_control", ERROR, "Claude Code sends blocks")
def system(session: Session) -> str:
    blocks = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    for value in ("Be brief.", blocks):
        reply = session.post(ANTHROPIC, session.question_body(ANTHROPIC, limit=4, system=value))
        require(reply.status == 200, f"system as {type(value).__name__} gives {describe(reply)}")
    return "both"


@rule(
    "anthropic-blocks",
    13,
    "content may be blocks, tool_use and tool_result among them",
    ERROR,
    "every second turn of an agent fails",
)
def blocks(session: Session) -> str:
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Sunny."}]}
    history = [
        {"role": "user", "content": [{"type": "text", "text": TOOL_PROMPT, "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    body = session.question_body(ANTHROPIC, limit=4, messages=history, tools=[_TOOL])
    return http_bodies.expect_ok(session.post(ANTHROPIC, body))


@rule(
    "anthropic-count",
    13,
    "/v1/messages/count_tokens answers",
    WARNING,
    "Claude Code can't tell how full the context is",
)
def count(session: Session) -> str:
    body = {"model": session.model, "messages": [{"role": "user", "content": QUESTION}]}
    reply = session.request("POST", ANTHROPIC.path(session.target) + "/count_tokens", body, dialect=ANTHROPIC)
    require(reply.status == 200, describe(reply))
    return http_bodies.expect_positive_counts(reply.json(), "input_tokens")


@rule(
    "anthropic-whole",
    13,
    "a whole message: id, type, role, content, stop_reason, integer usage",
    ERROR,
    "SDKs fail to read it",
)
def whole(session: Session) -> str:
    body = session.plain_answer(ANTHROPIC)
    require(isinstance(body.get("id"), str) and body["id"], f"id is {body.get('id')!r}")
    require(body.get("type") == "message", f"type is {body.get('type')!r}")
    require(body.get("role") == "assistant", f"role is {body.get('role')!r}")
    require(body.get("stop_reason") in _REASONS, f"stop_reason is {body.get('stop_reason')!r}")
    http_bodies.expect_positive_counts(body.get("usage"), "input_tokens", "output_tokens")
    return f"stop_reason {body['stop_reason']}"


@rule("anthropic-errors", 31, "errors are {type: error, error: {type, message}}", ERROR, "SDKs show no reason")
def errors(session: Session) -> str:
    http_bodies.expect_error(ANTHROPIC, session.post(ANTHROPIC, b'{"broken"'), (400,))
    reply = session.post(ANTHROPIC, session.question_body(ANTHROPIC, limit=4) | {"messages": "none"})
    return f"{http_bodies.expect_error(ANTHROPIC, reply, (400,))}, twice"


@rule(
    "anthropic-head", 6, "the stream's head and end are as the chat's", ERROR, "clients wait for ever or show raw text"
)
def head(session: Session) -> str:
    return stream_headers.expect_stream_head(session.stream_response(ANTHROPIC), ANTHROPIC)


@rule(
    "anthropic-proxies",
    6,
    "cache-control is no-cache, x-accel-buffering is no",
    WARNING,
    "proxies in between hold the stream back",
)
def proxies(session: Session) -> str:
    return stream_headers.expect_proxy_headers(session.streamed_answer(ANTHROPIC))


@rule(
    "anthropic-form",
    14,
    "each event is an event: and a data: line, two LF behind them",
    ERROR,
    "line readers drop others",
)
def form(session: Session) -> str:
    return named_events.expect_form(_plain(session))


@rule("anthropic-names", 31, "event: equals the data's type", ERROR, "SDKs drop events without their name")
def names(session: Session) -> str:
    return named_events.expect_names_match(_plain(session))


@rule(
    "anthropic-start",
    31,
    "message_start first, with a full message and its input_tokens",
    ERROR,
    "SDKs build the message on it",
)
def start(session: Session) -> str:
    # Pings may come at any place: a request may wait for its model, and clients' libraries drop them.
    first = _without_pings(_plain(session))[0]
    require(first.get("type") == "message_start", f"the stream begins with {first.get('type')!r}")
    message = find(first, "message")
    for name in ("id", "model"):
        require(isinstance(find(message, name), str), f"message.{name} is {find(message, name)!r}")
    require(find(message, "type") == "message", f"message.type is {find(message, 'type')!r}")
    require(find(message, "role") == "assistant", f"message.role is {find(message, 'role')!r}")
    require(find(message, "content") == [], f"message.content is {find(message, 'content')!r}")
    tokens = find(message, "usage", "input_tokens")
    require(type(tokens) is int, f"usage.input_tokens is {tokens!r}")
    return f"input_tokens {tokens}"


@rule(
    "anthropic-order",
    31,
    "blocks start, have deltas, stop; then message_delta, then message_stop",
    ERROR,
    "SDKs raise or drop what is out of order",
)
def order(session: Session) -> str:
    kinds = []
    opened: Any = None
    following = 0
    for value in _without_pings(_plain(session))[1:]:
        kind = value.get("type")
        kinds.append(kind)
        if kind == "content_block_start":
            require(opened is None, "a block starts before the last one has stopped")
            require(value.get("index") == following, f"index {value.get('index')!r} instead of {following}")
            opened, following = value.get("index"), following + 1
        elif kind in ("content_block_delta", "content_block_stop"):
            require(opened is not None, f"{kind} without a block")
            require(value.get("index") == opened, f"index {value.get('index')!r} in block {opened!r}")
            opened = None if kind == "content_block_stop" else opened
        elif kind == "message_delta":
            require(opened is None, "message_delta before the block has stopped")
        else:
            require(kind == "message_stop", f"an event {kind!r}")
    end = kinds[-2:]
    require(end == ["message_delta", "message_stop"], f"the stream ends {end}")
    return f"{following} blocks"


@rule(
    "anthropic-text", 31, "the text's deltas are text_delta, in a block that starts empty", ERROR, "SDKs show nothing"
)
def text(session: Session) -> str:
    stream = _plain(session)
    for value in named_events.of_type(stream, "content_block_start"):
        if find(value, "content_block", "type") == "text":
            require(find(value, "content_block", "text") == "", f"content_block is {value.get('content_block')!r}")
    pieces = []
    for value in named_events.of_type(stream, "content_block_delta"):
        kind = find(value, "delta", "type")
        known = ("text_delta", "thinking_delta", "signature_delta", "input_json_delta")
        require(kind in known, f"delta.type is {kind!r}")
        pieces.append(find(value, "delta", "text") if kind == "text_delta" else find(value, "delta", "thinking"))
    joined = "".join(piece for piece in pieces if isinstance(piece, str))
    require(joined.strip(), "no text")
    return repr(excerpt(joined, 40))


@rule(
    "anthropic-delta",
    31,
    "message_delta has stop_reason and cumulative output_tokens",
    ERROR,
    "agents don't know why it ended, and count no tokens",
)
def delta(session: Session) -> str:
    found = named_events.of_type(_plain(session), "message_delta")
    if not found:
        raise NotObserved("no message_delta")
    reason = find(found[-1], "delta", "stop_reason")
    require(reason in _REASONS, f"stop_reason is {reason!r}")
    return f"{reason}, {http_bodies.expect_positive_counts(found[-1].get('usage'), 'output_tokens')}"


@rule("anthropic-no-done", 31, "no [DONE]", WARNING, "SDKs fail to parse it")
def no_done(session: Session) -> str:
    stream = _plain(session)
    require(not stream.done_count, f"{stream.done_count} of them")
    return "none"


@rule(
    "anthropic-tool",
    31,
    "a tool_use block: id, name, empty input; then JSON in input_json_delta",
    ERROR,
    "agents run no tool",
)
def tool(session: Session) -> str:
    for choice in ("any", "auto"):
        fields: dict[str, Any] = {"tools": [_TOOL], "tool_choice": {"type": choice}, "max_tokens": CALL_TOKENS}
        if session.stream_response(ANTHROPIC, f"tool {choice}", TOOL_PROMPT, **fields).reply.status != 200:
            continue
        stream = session.streamed_answer(ANTHROPIC, f"tool {choice}", TOOL_PROMPT, **fields)
        starts = [
            value
            for value in named_events.of_type(stream, "content_block_start")
            if find(value, "content_block", "type") == "tool_use"
        ]
        if starts:
            break
    else:
        raise NotObserved("the model called no tool")
    for value in starts:
        block = value["content_block"]
        require(isinstance(block.get("id"), str) and block["id"], f"id is {block.get('id')!r}")
        require(block.get("name") == "get_weather", f"name is {block.get('name')!r}")
        require(block.get("input") == {}, f"input begins as {block.get('input')!r}")
        pieces = [
            find(piece, "delta", "partial_json")
            for piece in named_events.of_type(stream, "content_block_delta")
            if piece.get("index") == value.get("index")
        ]
        joined = "".join(piece for piece in pieces if isinstance(piece, str))
        reason = find((named_events.of_type(stream, "message_delta") or [{}])[-1], "delta", "stop_reason")
        if reason == "max_tokens":
            raise NotObserved("the reply was cut at its token limit")
        require(_is_object(joined or "{}"), f"the input is {excerpt(joined)}")
        require(reason == "tool_use", f"stop_reason is {reason!r}")
    return f"{len(starts)} calls"


def _is_object(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


@rule("anthropic-ping", 30, "a silent stream shows life by ping events", WARNING, "clients give up on long prompts")
def ping(session: Session) -> str:
    text = long_text(session.limits.long_prompt_words, 31)
    streams = [_plain(session), session.streamed_answer(ANTHROPIC, "long prompt", text, max_tokens=4)]
    for stream in streams:
        for event in stream.events:
            require(event.data is not None, f"a comment: {excerpt(event.raw)}")
    return keep_alives.expect_no_long_silence(streams, session.limits.max_silence, _is_ping)


def _without_pings(stream: Any) -> list[Any]:
    return [value for value in stream.objects if value.get("type") != "ping"]


def _is_ping(event: StreamEvent) -> bool:
    return event.name == "ping" and event.object == {"type": "ping"}


@rule("anthropic-unknown", 11, "unknown fields are ignored", ERROR, "clients with newer fields get no answer")
def unknown(session: Session) -> str:
    reply = session.post(ANTHROPIC, session.question_body(ANTHROPIC, limit=4, another_unknown_field=True))
    return http_bodies.expect_ok(reply)


@rule(
    "anthropic-usage",
    31,
    "message_start and message_delta report the same input",
    WARNING,
    "relays that add both up, and clients that show the first, tell a wrong number",
)
def usage(session: Session) -> str:
    stream = _plain(session)
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    first = find(next(iter(named_events.of_type(stream, "message_start")), {}), "message", "usage") or {}
    last = find(next(iter(named_events.of_type(stream, "message_delta")), {}), "usage") or {}
    reported = [name for name in names if last.get(name) is not None]
    if not reported or not first:
        raise NotObserved("one of them reports no input")
    for name in reported:
        require(last[name] == (first.get(name) or 0), f"{name}: {first.get(name)!r}, then {last[name]!r}")
    return ", ".join(f"{name} {last[name]}" for name in reported)
