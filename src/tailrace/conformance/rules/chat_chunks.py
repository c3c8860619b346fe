"""The JSON of OpenAI's chat chunks: ids, deltas, finish reasons, usage, the stream's end, reasoning."""

from __future__ import annotations

import json

from tailrace.conformance.assertions import chunk_fields, http_bodies, sse_events
from tailrace.conformance.dialects import OPENAI, find
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.chat_stream import plain, streams, with_usage
from tailrace.conformance.session import Session, excerpt

THEME = Theme("Chat chunks", OPENAI.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_REASONS = ("stop", "length", "tool_calls", "content_filter")
#: Fields that are null in OpenAI's own streams, so clients accept null there.
_NULLS_OF_OPENAI = {"usage", "logprobs", "system_fingerprint", "refusal", "service_tier", "obfuscation"}


@rule("same-id", 17, "one id, a string, in every chunk", ERROR, "clients that gather by id show pieces")
def same_id(session: Session) -> str:
    return chunk_fields.expect_constant(streams(session), "id", str)


@rule("created", 17, "created is an integer in every chunk", ERROR, "typed clients fail on another type")
def created(session: Session) -> str:
    for stream in streams(session):
        for value in chunk_fields.chunks_of(stream):
            require(type(value.get("created")) is int, f"created is {value.get('created')!r}")
    return str(plain(session).objects[0]["created"])


@rule("same-model", 17, "model is the same string in every chunk", WARNING, "relays that price by it")
def same_model(session: Session) -> str:
    return chunk_fields.expect_constant(streams(session), "model", str)


@rule(
    "object",
    17,
    "object is 'chat.completion.chunk'",
    ERROR,
    "clients that tell chunks from other events by it drop them",
)
def object_name(session: Session) -> str:
    for stream in streams(session):
        for value in chunk_fields.chunks_of(stream):
            require(value.get("object") == "chat.completion.chunk", f"object is {value.get('object')!r}")
    return "everywhere"


@rule(
    "first-chunk",
    18,
    "the first chunk's delta is the role and empty content",
    WARNING,
    "clients that take the role from it leave the message without one",
)
def first_chunk(session: Session) -> str:
    for stream in streams(session):
        delta = find(stream.objects[0], "choices", 0, "delta")
        require(delta == {"role": "assistant", "content": ""}, f"delta is {excerpt(json.dumps(delta))}")
    return '{"role": "assistant", "content": ""}'


@rule("delta-object", 18, "delta is always an object", ERROR, "most clients read delta.content unasked: a crash")
def delta_object(session: Session) -> str:
    count = 0
    for stream in streams(session):
        for choice in chunk_fields.choices_of(stream):
            require(isinstance(choice.get("delta"), dict), f"delta is {choice.get('delta')!r}")
            count += 1
    return f"{count} times"


@rule("content-null", 18, "content is never null behind the first chunk", WARNING, "clients that append it show 'null'")
def content_null(session: Session) -> str:
    for stream in streams(session):
        for choice in chunk_fields.choices_of(stream)[1:]:
            delta = choice.get("delta")
            require(not isinstance(delta, dict) or delta.get("content", "") is not None, "content: null")
    return "never"


@rule("content", 18, "there is text in content (or reasoning_content)", ERROR, "every client shows nothing")
def content(session: Session) -> str:
    deltas = [choice.get("delta") for choice in chunk_fields.choices_of(plain(session))]
    parts = [find(delta, name) for delta in deltas for name in ("content", "reasoning_content")]
    text = "".join(part for part in parts if isinstance(part, str))
    require(text.strip(), "none")
    return repr(text[:40])


@rule(
    "finish-key",
    19,
    "finish_reason is in every choice, null until the last",
    ERROR,
    "clients that look it up without asking crash",
)
def finish_key(session: Session) -> str:
    return chunk_fields.expect_finish_key(streams(session))


@rule("one-finish", 19, "exactly one final chunk has a finish_reason", ERROR, "clients that wait for it never finish")
def one_finish(session: Session) -> str:
    return chunk_fields.expect_one_finish(streams(session))


@rule("finish-alone", 19, "the final chunk's delta is {}", WARNING, "clients that stop at the reason lose its text")
def finish_alone(session: Session) -> str:
    for stream in streams(session):
        for choice in chunk_fields.choices_of(stream):
            if choice.get("finish_reason") is not None:
                # Another rule checks that the delta is an object.
                require(choice.get("delta") in ({}, None), f"delta is {excerpt(json.dumps(choice.get('delta')))}")
    return "{}"


@rule(
    "finish-values",
    20,
    "the reason is stop, length, tool_calls or content_filter",
    ERROR,
    "typed clients refuse others; agents loop on them",
)
def finish_values(session: Session) -> str:
    return chunk_fields.expect_known_finish(streams(session), _REASONS)


@rule("no-usage-unasked", 21, "usage is sent only when the request asks for it", NOTE, "relays that count it twice")
def no_usage_unasked(session: Session) -> str:
    return chunk_fields.expect_no_usage(plain(session))


@rule(
    "usage-chunk",
    21,
    "usage comes in a last chunk of its own with choices []",
    ERROR,
    "new-api drops a finish that shares its chunk with usage, and reads usage from the last event alone",
)
def usage_chunk(session: Session) -> str:
    return chunk_fields.expect_usage_chunk(with_usage(session))


@rule(
    "usage-sums",
    21,
    "usage is integers over zero, total = prompt + completion",
    WARNING,
    "one-api and new-api bill zero",
)
def usage_sums(session: Session) -> str:
    return http_bodies.expect_usage_sum(chunk_fields.usage_of(with_usage(session)))


@rule("no-null-extras", 22, "no keys that are null, but those of OpenAI's own", WARNING, "Open WebUI skips such chunks")
def no_null_extras(session: Session) -> str:
    names = _nulls(streams(session)) - _NULLS_OF_OPENAI
    require(not names, ", ".join(f"{name}: null" for name in sorted(names)))
    return "none"


@rule("no-nulls", 22, "finish_reason is the only null there is", NOTE, "clients that ask whether a key is there")
def no_nulls(session: Session) -> str:
    names = _nulls(streams(session)) & _NULLS_OF_OPENAI
    require(not names, ", ".join(f"{name}: null" for name in sorted(names)))
    return "none"


def _nulls(found: list[RecordedStream]) -> set[str]:
    """The keys with a null value, without those that other rules check."""
    names: set[str] = set()
    for stream in found:
        stack: list[object] = list(chunk_fields.chunks_of(stream))
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                names |= {name for name, inner in value.items() if inner is None}
                stack += value.values()
            elif isinstance(value, list):
                stack += value
    return names - {"finish_reason", "content", "delta"}


@rule(
    "done", 25, "exactly one 'data: [DONE]', then the end", ERROR, "relays and SDKs wait for it; text behind it is lost"
)
def done(session: Session) -> str:
    return sse_events.expect_one_done(streams(session))


@rule(
    "error-in-stream",
    None,
    "an error in a stream: its text as content, then {error}, no [DONE]",
    ERROR,
    "Open WebUI and Dify read it only without choices, one-api drops it, NextChat shows content alone",
)
def error_in_stream(session: Session) -> str:
    plain(session)
    return chunk_fields.expect_error_chunk([stream for stream in session.streams if _is_chat(stream)])


def _is_chat(stream: RecordedStream) -> bool:
    return any("delta" in choice for choice in chunk_fields.choices_of(stream))


# Reasoning


@rule(
    "reasoning-apart",
    23,
    "reasoning_content is never empty, nor beside content in one chunk",
    WARNING,
    "clients that take the one drop the other",
)
def reasoning_apart(session: Session) -> str:
    count = 0
    for stream in streams(session):
        for choice in chunk_fields.choices_of(stream):
            delta = choice.get("delta")
            if not isinstance(delta, dict) or "reasoning_content" not in delta:
                continue
            require(delta["reasoning_content"], "an empty reasoning_content")
            require(not delta.get("content"), f"both in one chunk: {excerpt(json.dumps(delta))}")
            count += 1
    if not count:
        raise NotObserved("the model gave no reasoning_content")
    return f"{count} chunks"


@rule(
    "think-tags",
    23,
    "reasoning within <think> tags: each tag in a chunk of its own",
    NOTE,
    "clients that fold it see the tags in one piece only",
)
def think_tags(session: Session) -> str:
    count = 0
    for stream in streams(session):
        for choice in chunk_fields.choices_of(stream):
            text = find(choice, "delta", "content")
            for tag in ("<think>", "</think>"):
                if isinstance(text, str) and tag in text:
                    require(text.strip() == tag, f"a tag within {excerpt(text)!r}")
                    count += 1
    if not count:
        raise NotObserved("no <think> in the content")
    return f"{count} tags"
