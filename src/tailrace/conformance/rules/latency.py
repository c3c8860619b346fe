"""Latencies: of headers, of the list of models during a long prefill, and silences of a stream."""

from __future__ import annotations

import json
import time

from tailrace.conformance.assertions import keep_alives
from tailrace.conformance.connection import ProtocolError
from tailrace.conformance.dialects import OPENAI
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, RuleBroken, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session, describe

THEME = Theme("Long waits", OPENAI.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

_WORDS = ("time", "people", "water", "light", "house", "music", "river", "garden", "paper", "story", "friend", "city")
#: The best of so many attempts counts, because the machine itself may stall.
_ATTEMPTS = 3


def long_text(words: int, turn: int) -> str:
    """A prompt of that many words. Each turn's prompt begins differently, so it isn't in a prefix cache."""
    text = " ".join(_WORDS[(place * 7 + place // 5 + turn) % len(_WORDS)] for place in range(words))
    return f"Turn {turn}: {text}. Write one word."


def long_stream(session: Session) -> RecordedStream:
    """The stream of the longest prompt."""
    text = long_text(session.limits.long_prompt_words, 0)
    return session.streamed_answer(OPENAI, "long prompt", text, max_tokens=4)


@rule(
    "headers-soon",
    28,
    "headers and the role's chunk come within 1 s, before a long prompt is read",
    WARNING,
    "NextChat gives up after 60 s without headers",
)
def headers_soon(session: Session) -> str:
    limit = session.limits.max_delay
    for turn in range(_ATTEMPTS):
        stream = long_stream(session) if turn == 0 else _next_long_stream(session, turn)
        head = stream.reply.headers_at - stream.reply.sent_at
        first = stream.received_at[0] - stream.reply.sent_at
        if head <= limit and first <= limit:
            return f"headers after {head:.2f} s, the first chunk after {first:.2f} s"
    raise RuleBroken(
        f"{session.limits.long_prompt_words} words: headers after {head:.2f} s, the first chunk after {first:.2f} s"
    )


def _next_long_stream(session: Session, turn: int) -> RecordedStream:
    return session.streamed_answer(
        OPENAI, f"long prompt {turn}", long_text(session.limits.long_prompt_words, turn), max_tokens=4
    )


@rule(
    "models-busy",
    8,
    "the list of models comes within 1 s while a prompt is read",
    WARNING,
    "LibreChat gives up after 5 s",
)
def models_busy(session: Session) -> str:
    body = OPENAI.streamed(session.question_body(OPENAI, long_text(session.limits.long_prompt_words, 90), 4))
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    with session.open() as busy:
        busy.send("POST", OPENAI.path(session.target), json.dumps(body).encode(), headers)
        waits = []
        for _ in range(_ATTEMPTS):
            started = time.perf_counter()
            reply = session.request("GET", f"{session.target.api}/models", dialect=OPENAI)
            waits.append(time.perf_counter() - started)
            if reply.status != 200:
                raise NotObserved(f"no list of models: {describe(reply)}")
        try:
            busy.read()
        except ProtocolError as error:
            raise NotObserved(f"the long prompt got no reply: {error}") from None
    # The first request runs during the prefill. The later ones tell a stalled machine from a slow server.
    require(min(waits) <= session.limits.max_delay, f"after {min(waits):.2f} s at best")
    return f"after {waits[0]:.2f} s"


@rule(
    "keep-alive",
    29,
    "a stream that is silent for 10 s shows a sign of life",
    WARNING,
    "proxies close it; LangChain's async client gives up after 120 s, Codex after 300 s",
)
def keep_alive(session: Session) -> str:
    long_stream(session)
    return keep_alives.expect_no_long_silence(
        [stream for stream in session.streams if _is_chat(stream)], session.limits.max_silence
    )


@rule(
    "keep-alive-form",
    29,
    "the sign of life is a chunk with empty content, no comment",
    WARNING,
    "comments fail Continue and openai-go, don't count for LangChain's async client, and one-api drops them",
)
def keep_alive_form(session: Session) -> str:
    long_stream(session)
    found = [stream for stream in session.streams if _is_chat(stream)]
    comments = [event.raw for stream in found for event in stream.events if event.data is None]
    require(not comments, f"{len(comments)} comments: {comments[0][:40]!r}" if comments else "")
    signs = sum(keep_alives.is_keep_alive(event) for stream in found for event in stream.events)
    if not signs:
        raise NotObserved("no sign of life was needed")
    return f"{signs} chunks with empty content"


def _is_chat(stream: RecordedStream) -> bool:
    return bool(stream.objects) and stream.objects[0].get("object") == "chat.completion.chunk"
