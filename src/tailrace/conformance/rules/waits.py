"""How long one waits: for headers, for the list of models beside a long prompt, in silence."""

from __future__ import annotations

import json
import time

from tailrace.conformance import judge
from tailrace.conformance.connection import WireError
from tailrace.conformance.dialects import OPENAI
from tailrace.conformance.events import Stream
from tailrace.conformance.rule import Broken, NotSeen, Severity, Theme, expect
from tailrace.conformance.session import Session, summary

THEME = Theme("Long waits", OPENAI.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

_WORDS = ("time", "people", "water", "light", "house", "music", "river", "garden", "paper", "story", "friend", "city")
#: A machine has bad moments that are no fault of the server's: the best of so many counts.
_TRIES = 3


def long_text(words: int, turn: int) -> str:
    """A prompt of so many words; each turn's begins differently, so that no server has it ready."""
    text = " ".join(_WORDS[(place * 7 + place // 5 + turn) % len(_WORDS)] for place in range(words))
    return f"Turn {turn}: {text}. Write one word."


def long_stream(session: Session) -> Stream:
    """The stream of the longest prompt; the last of as many as it took to be prompt."""
    text = long_text(session.limits.long_prompt, 0)
    return session.streamed(OPENAI, "long prompt", text, max_tokens=4)


@rule(
    "headers-soon",
    28,
    "headers and the role's chunk come within 1 s, before a long prompt is read",
    WARNING,
    "NextChat gives up after 60 s without headers",
)
def headers_soon(session: Session) -> str:
    limit = session.limits.promptly
    for turn in range(_TRIES):
        stream = long_stream(session) if turn == 0 else _again(session, turn)
        head = stream.reply.head_at - stream.reply.asked_at
        first = stream.times[0] - stream.reply.asked_at
        if head <= limit and first <= limit:
            return f"headers after {head:.2f} s, the first chunk after {first:.2f} s"
    raise Broken(f"{session.limits.long_prompt} words: headers after {head:.2f} s, the first chunk after {first:.2f} s")


def _again(session: Session, turn: int) -> Stream:
    return session.streamed(OPENAI, f"long prompt {turn}", long_text(session.limits.long_prompt, turn), max_tokens=4)


@rule(
    "models-busy",
    8,
    "the list of models comes within 1 s while a prompt is read",
    WARNING,
    "LibreChat gives up after 5 s",
)
def models_busy(session: Session) -> str:
    body = OPENAI.stream(session.question(OPENAI, long_text(session.limits.long_prompt, 90), 4))
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    with session.open() as busy:
        busy.send("POST", OPENAI.path(session.target), json.dumps(body).encode(), headers)
        waits = []
        for _ in range(_TRIES):
            asked = time.perf_counter()
            reply = session.ask("GET", f"{session.target.api}/models", dialect=OPENAI)
            waits.append(time.perf_counter() - asked)
            if reply.status != 200:
                raise NotSeen(f"no list of models: {summary(reply)}")
        try:
            busy.read()
        except WireError as error:
            raise NotSeen(f"the long prompt got no reply: {error}") from None
    # The first one is asked while the prompt is read; later ones only tell a bad moment from a slow server.
    expect(min(waits) <= session.limits.promptly, f"after {min(waits):.2f} s at best")
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
    return judge.silences([stream for stream in session.streams if _is_chat(stream)], session.limits.silence)


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
    expect(not comments, f"{len(comments)} comments: {comments[0][:40]!r}" if comments else "")
    signs = sum(judge.is_sign_of_life(event) for stream in found for event in stream.events)
    if not signs:
        raise NotSeen("no sign of life was needed")
    return f"{signs} chunks with empty content"


def _is_chat(stream: Stream) -> bool:
    return bool(stream.objects) and stream.objects[0].get("object") == "chat.completion.chunk"
