"""Tool calls in OpenAI's chat, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

from tailrace.conformance.assertions import chunk_fields
from tailrace.conformance.dialects import OPENAI, Json, find
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session, describe, excerpt

THEME = Theme("Tool calls", OPENAI.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

#: Bounded, so that a small model that follows the schema ends its call.
SCHEMA: Json = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: Json = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA},
}
TOOL_PROMPT = "What is the weather in Paris? Use the tool."
#: Token limit of a reply with a call: a model may write text around it.
CALL_TOKENS = 96


def called(session: Session) -> RecordedStream:
    """A stream with a tool call, by ``tool_choice`` required or else auto. Raises NotObserved without a call."""
    for choice in ("required", "auto"):
        fields = {"tools": [TOOL], "tool_choice": choice, "max_tokens": CALL_TOKENS}
        if session.stream_response(OPENAI, f"tool {choice}", TOOL_PROMPT, **fields).reply.status != 200:
            continue  # Not every server can force a call.
        stream = session.streamed_answer(OPENAI, f"tool {choice}", TOOL_PROMPT, **fields)
        if _fragments(stream):
            return stream
    raise NotObserved("the model called no tool")


def _fragments(stream: RecordedStream) -> list[list[Json]]:
    """The tool call fragments of each chunk with a tool call."""
    found = [find(choice, "delta", "tool_calls") for choice in chunk_fields.choices_of(stream)]
    return [[part for part in calls if isinstance(part, dict)] for calls in found if isinstance(calls, list) and calls]


@rule(
    "tool-first",
    24,
    "a call's first fragment: index, id, type, name and empty arguments",
    ERROR,
    "clients take the call's id and name from it alone",
)
def tool_first(session: Session) -> str:
    seen: set[Any] = set()
    for fragments in _fragments(called(session)):
        for part in fragments:
            if part.get("index") in seen:
                continue
            seen.add(part.get("index"))
            require(type(part.get("index")) is int, f"index is {part.get('index')!r}")
            for name in ("id", "type"):
                require(isinstance(part.get(name), str) and part[name], f"{name} is {part.get(name)!r}")
            require(part["type"] == "function", f"type is {part['type']!r}")
            require(find(part, "function", "name") == "get_weather", f"name is {find(part, 'function', 'name')!r}")
            arguments = find(part, "function", "arguments")
            require(arguments == "", f"arguments begin as {arguments!r}")
    return f"{len(seen)} calls"


@rule(
    "tool-later",
    24,
    "later fragments have index and arguments alone",
    ERROR,
    "an id starts a new call in NextChat; a name again is doubled by others",
)
def tool_later(session: Session) -> str:
    seen: set[Any] = set()
    count = 0
    for fragments in _fragments(called(session)):
        for part in fragments:
            if part.get("index") in seen:
                extra = [name for name in part if name not in ("index", "function")]
                extra += [name for name in part.get("function") or {} if name != "arguments"]
                require(not extra, f"{', '.join(extra)} in {excerpt(json.dumps(part))}")
                count += 1
            seen.add(part.get("index"))
    if not count:
        raise NotObserved("the call came in one fragment")
    return f"{count} fragments"


@rule("tool-one-a-chunk", 24, "one call a chunk", WARNING, "clients that read tool_calls[0] alone lose the others")
def tool_one_a_chunk(session: Session) -> str:
    fragments = _fragments(called(session))
    for calls in fragments:
        require(len(calls) == 1, f"{len(calls)} in one chunk")
    return f"{len(fragments)} chunks"


@rule("tool-arguments", 24, "the joined arguments are a JSON object", ERROR, "agents fail to parse them")
def tool_arguments(session: Session) -> str:
    stream = called(session)
    joined: dict[Any, str] = {}
    for fragments in _fragments(stream):
        for part in fragments:
            more = find(part, "function", "arguments")
            joined[part.get("index")] = joined.get(part.get("index"), "") + (more if isinstance(more, str) else "")
    reasons = [choice["finish_reason"] for choice in chunk_fields.choices_of(stream) if choice.get("finish_reason")]
    for arguments in joined.values():
        value = _object(arguments)
        if value is None and reasons == ["length"]:
            raise NotObserved("the reply was cut at its token limit")
        require(value is not None, excerpt(arguments))
    return ", ".join(excerpt(arguments) for arguments in joined.values())


@rule(
    "tool-finish", 20, "a reply with tool calls finishes with tool_calls", ERROR, "agents don't run the tools otherwise"
)
def tool_finish(session: Session) -> str:
    reasons = [
        choice["finish_reason"] for choice in chunk_fields.choices_of(called(session)) if choice.get("finish_reason")
    ]
    if reasons == ["length"]:
        raise NotObserved("the reply was cut at its token limit")
    require(reasons == ["tool_calls"], f"finish_reason: {reasons}")
    return "tool_calls"


@rule(
    "tool-whole",
    24,
    "not streamed: calls have id, type, name and arguments as a string of JSON",
    ERROR,
    "SDKs fail to parse the reply",
)
def tool_whole(session: Session) -> str:
    for choice in ("required", "auto"):
        reply = session.post(
            OPENAI, session.question_body(OPENAI, TOOL_PROMPT, CALL_TOKENS, tools=[TOOL], tool_choice=choice)
        )
        calls = find(reply.json(), "choices", 0, "message", "tool_calls")
        if reply.status == 200 and calls:
            break
    else:
        raise NotObserved("the model called no tool" if reply.status == 200 else describe(reply))
    for call in calls:
        require(isinstance(find(call, "id"), str) and call["id"], f"id is {find(call, 'id')!r}")
        require(find(call, "type") == "function", f"type is {find(call, 'type')!r}")
        require(isinstance(find(call, "function", "name"), str), f"name is {find(call, 'function', 'name')!r}")
        arguments = find(call, "function", "arguments")
        require(isinstance(arguments, str), f"arguments are {excerpt(json.dumps(arguments))} instead of a string")
        require(_object(arguments) is not None, f"arguments are {excerpt(arguments)}")
    return f"{len(calls)} calls"


def _object(text: str) -> Json | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
