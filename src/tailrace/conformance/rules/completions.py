"""OpenAI's text completions: the same endings as the chat's."""

from __future__ import annotations

from tailrace.conformance.assertions import chunk_fields, http_bodies, sse_events, stream_headers
from tailrace.conformance.dialects import COMPLETIONS, find
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session

THEME = Theme("Text completions", COMPLETIONS.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING


def _streams(session: Session) -> list[RecordedStream]:
    found = [session.streamed_answer(COMPLETIONS)]
    try:
        found.append(_with_usage(session))
    except NotObserved:
        pass  # The rule completions-usage-chunk reports it.
    return found


def _with_usage(session: Session) -> RecordedStream:
    return session.streamed_answer(COMPLETIONS, "usage", stream_options={"include_usage": True})


@rule("completions-answers", 27, "a completion is answered with 200 and text", ERROR, "editors' completion")
def answers(session: Session) -> str:
    return http_bodies.expect_answer(session, COMPLETIONS)


@rule(
    "completions-whole",
    27,
    "a whole reply: object text_completion, text, finish_reason, usage",
    ERROR,
    "typed clients fail to read it",
)
def whole(session: Session) -> str:
    body = session.plain_answer(COMPLETIONS)
    require(body.get("object") == "text_completion", f"object is {body.get('object')!r}")
    reason = find(body, "choices", 0, "finish_reason")
    require(reason in ("stop", "length"), f"finish_reason is {reason!r}")
    return http_bodies.expect_usage_sum(body.get("usage"))


@rule("completions-errors", 7, "a broken body is a 4xx with the error as JSON", ERROR, "clients show no reason")
def errors(session: Session) -> str:
    return http_bodies.expect_error(COMPLETIONS, session.post(COMPLETIONS, b'{"broken"'), (400, 422))


@rule(
    "completions-head",
    6,
    "the stream's head and end are as the chat's",
    ERROR,
    "clients wait for ever or show raw text",
)
def head(session: Session) -> str:
    return stream_headers.expect_stream_head(session.stream_response(COMPLETIONS), COMPLETIONS)


@rule(
    "completions-proxies",
    6,
    "cache-control is no-cache, x-accel-buffering is no",
    WARNING,
    "proxies in between hold the stream back",
)
def proxies(session: Session) -> str:
    return stream_headers.expect_proxy_headers(session.streamed_answer(COMPLETIONS))


@rule(
    "completions-events", 14, "events are as the chat's: 'data: ', one line, two LF", ERROR, "one-api drops other lines"
)
def events(session: Session) -> str:
    found = _streams(session)
    sse_events.expect_line_feeds(found)
    sse_events.expect_one_data_line(found)
    sse_events.expect_only_data_fields(found)
    return sse_events.expect_data_prefix(found)


@rule(
    "completions-chunks",
    27,
    "object text_completion, a string text, one id in every chunk",
    ERROR,
    "editors show nothing",
)
def chunks(session: Session) -> str:
    found = _streams(session)
    for stream in found:
        for value in chunk_fields.chunks_of(stream):
            require(value.get("object") == "text_completion", f"object is {value.get('object')!r}")
        for choice in chunk_fields.choices_of(stream):
            require(isinstance(choice.get("text"), str), f"text is {choice.get('text')!r}")
    return f"id {chunk_fields.expect_constant(found, 'id', str)}"


@rule(
    "completions-finish",
    27,
    "finish_reason in every choice, one that isn't null, the last",
    ERROR,
    "clients that wait for it never finish",
)
def finish(session: Session) -> str:
    found = _streams(session)
    chunk_fields.expect_finish_key(found)
    chunk_fields.expect_one_finish(found)
    return chunk_fields.expect_known_finish(found, ("stop", "length", "content_filter"))


@rule(
    "completions-usage-chunk",
    27,
    "usage in a last chunk of its own with choices [], when asked for",
    WARNING,
    "relays bill zero",
)
def usage_chunk(session: Session) -> str:
    stream = _with_usage(session)
    chunk_fields.expect_usage_chunk(stream)
    return http_bodies.expect_usage_sum(chunk_fields.usage_of(stream))


@rule("completions-done", 27, "exactly one 'data: [DONE]', then the end", ERROR, "relays and SDKs wait for it")
def done(session: Session) -> str:
    return sse_events.expect_one_done(_streams(session))
