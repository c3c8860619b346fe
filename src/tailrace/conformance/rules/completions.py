"""OpenAI's text completions: the same endings as the chat's."""

from __future__ import annotations

from tailrace.conformance import judge
from tailrace.conformance.dialects import COMPLETIONS, find
from tailrace.conformance.events import Stream
from tailrace.conformance.rule import NotSeen, Severity, Theme, expect
from tailrace.conformance.session import Session

THEME = Theme("Text completions", COMPLETIONS.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING


def _streams(session: Session) -> list[Stream]:
    found = [session.streamed(COMPLETIONS)]
    try:
        found.append(_with_usage(session))
    except NotSeen:
        pass  # completions-usage-chunk tells it.
    return found


def _with_usage(session: Session) -> Stream:
    return session.streamed(COMPLETIONS, "usage", stream_options={"include_usage": True})


@rule("completions-answers", 27, "a completion is answered with 200 and text", ERROR, "editors' completion")
def answers(session: Session) -> str:
    return judge.answers(session, COMPLETIONS)


@rule(
    "completions-whole",
    27,
    "a whole reply: object text_completion, text, finish_reason, usage",
    ERROR,
    "typed clients fail to read it",
)
def whole(session: Session) -> str:
    body = session.answered(COMPLETIONS)
    expect(body.get("object") == "text_completion", f"object is {body.get('object')!r}")
    reason = find(body, "choices", 0, "finish_reason")
    expect(reason in ("stop", "length"), f"finish_reason is {reason!r}")
    return judge.total(body.get("usage"))


@rule("completions-errors", 7, "a broken body is a 4xx with the error as JSON", ERROR, "clients show no reason")
def errors(session: Session) -> str:
    return judge.refused(COMPLETIONS, session.post(COMPLETIONS, b'{"broken"'), (400, 422))


@rule(
    "completions-head",
    6,
    "the stream's head and end are as the chat's",
    ERROR,
    "clients wait for ever or show raw text",
)
def head(session: Session) -> str:
    return judge.head(session.stream(COMPLETIONS), COMPLETIONS)


@rule(
    "completions-proxies",
    6,
    "cache-control is no-cache, x-accel-buffering is no",
    WARNING,
    "proxies in between hold the stream back",
)
def proxies(session: Session) -> str:
    return judge.proxies(session.streamed(COMPLETIONS))


@rule(
    "completions-events", 14, "events are as the chat's: 'data: ', one line, two LF", ERROR, "one-api drops other lines"
)
def events(session: Session) -> str:
    found = _streams(session)
    judge.line_feeds(found)
    judge.one_data_line(found)
    judge.no_other_fields(found)
    return judge.prefix(found)


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
        for value in judge.chunks(stream):
            expect(value.get("object") == "text_completion", f"object is {value.get('object')!r}")
        for choice in judge.choices(stream):
            expect(isinstance(choice.get("text"), str), f"text is {choice.get('text')!r}")
    return f"id {judge.one_value(found, 'id', str)}"


@rule(
    "completions-finish",
    27,
    "finish_reason in every choice, one that isn't null, the last",
    ERROR,
    "clients that wait for it never finish",
)
def finish(session: Session) -> str:
    found = _streams(session)
    judge.finish_key(found)
    judge.one_finish(found)
    return judge.finish_values(found, ("stop", "length", "content_filter"))


@rule(
    "completions-usage-chunk",
    27,
    "usage in a last chunk of its own with choices [], when asked for",
    WARNING,
    "relays bill zero",
)
def usage_chunk(session: Session) -> str:
    stream = _with_usage(session)
    judge.usage_chunk(stream)
    return judge.total(judge.usage_of(stream))


@rule("completions-done", 27, "exactly one 'data: [DONE]', then the end", ERROR, "relays and SDKs wait for it")
def done(session: Session) -> str:
    return judge.done(_streams(session))
