"""Requests side by side, and requests whose client goes away."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from tailrace.conformance.connection import Reply
from tailrace.conformance.dialects import OPENAI, find
from tailrace.conformance.events import Stream
from tailrace.conformance.rule import Broken, NotSeen, Severity, Theme, expect
from tailrace.conformance.session import Session, shown, summary

THEME = Theme("Company", OPENAI.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

#: Far apart, so that a piece of one in the reply to another can't be chance.
_PROMPTS = (
    "List the months of the year in order, separated by commas.",
    "Explain in plain words how a bicycle pump works.",
    "Write the first lines of a fairy tale about a green dragon named Zorblax.",
)
#: A piece of another reply that is at least so long is no chance.
_PIECE = 24

#: Gauges of running requests: vLLM's and tailrace's, llama-server's, SGLang's, TGI's.
_RUNNING = re.compile(
    rb"^(?:vllm:num_requests_running|llamacpp:requests_processing|sglang:num_running_reqs|tgi_batch_current_size)"
    rb"(?:\{[^}]*\})? ([0-9.e+]+)",
    re.MULTILINE,
)
_LONG = "Count from one to two hundred, in words, one number a line."
#: How long such a reply may be: where the first takes less time than servers take to renew their metrics, the second.
_LONG_TOKENS = (256, 2048)
_LONG_SECONDS = 3.0


@rule(
    "concurrent",
    10,
    "requests at the same time don't alter each other's text",
    ERROR,
    "Open WebUI's title and tag requests run into the chat's reply",
)
def concurrent(session: Session) -> str:
    alone = [_text(session.post(OPENAI, _greedy(session, prompt))) for prompt in _PROMPTS]
    together = list(_together(session))
    for place, text in enumerate(together):
        others = [other for index, other in enumerate(alone) if index != place]
        stray = next((piece for other in others if (piece := _piece(text, other, alone[place]))), None)
        expect(stray is None, f"a piece of another reply: {shown(stray or '')!r}")
    expect(all(together) or not all(alone), "a reply that is empty in company")
    if together == alone:
        return f"{len(alone)} replies, each as alone"
    again = [_text(session.post(OPENAI, _greedy(session, prompt))) for prompt in _PROMPTS]
    if again != alone:
        raise NotSeen("greedy replies differ here from one time to the next even when they are alone")
    place = next(index for index, text in enumerate(together) if text != alone[index])
    same = _common(together[place], alone[place])
    if same == 0:
        raise Broken(f"alone {shown(alone[place], 40)!r}, in company {shown(together[place], 40)!r}")
    raise NotSeen(
        f"a reply differs from character {same} on, without a piece of another: rounding in a batch of another size "
        "does that"
    )


def _greedy(session: Session, prompt: str) -> dict[str, object]:
    return session.question(OPENAI, prompt)


def _text(reply: Reply) -> str:
    body = reply.json()
    expect(reply.status == 200, summary(reply))
    content, thought = (find(body, "choices", 0, "message", name) for name in ("content", "reasoning_content"))
    return (thought if isinstance(thought, str) else "") + (content if isinstance(content, str) else "")


def _together(session: Session) -> Iterator[str]:
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    with ExitStack() as stack:
        connections = [stack.enter_context(session.open()) for _ in _PROMPTS]
        for connection, prompt in zip(connections, _PROMPTS, strict=True):
            body = json.dumps(_greedy(session, prompt)).encode()
            connection.send("POST", OPENAI.path(session.target), body, headers)
        for connection in connections:
            yield _text(connection.read())


def _piece(text: str, other: str, own: str) -> str | None:
    """A long piece of ``other`` within ``text`` that isn't in ``own`` as well."""
    for start in range(len(other) - _PIECE + 1):
        piece = other[start : start + _PIECE]
        if piece in text and piece not in own:
            return piece
    return None


def _common(one: str, other: str) -> int:
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
                min(len(one), len(other)))  # fmt: skip


@rule(
    "cancel",
    9,
    "a client that goes away ends its generation",
    WARNING,
    "stopped replies go on, and those that come after wait for them",
)
def cancel(session: Session) -> str:
    fields = _long_fields(session)
    seconds = _seconds(session.streamed(OPENAI, _label(fields), _LONG, **fields))
    if seconds < 0.5:
        raise NotSeen(f"the longest reply takes {seconds:.2f} s: too short to tell")
    if _running(session) is not None:
        return _cancelled_by_gauge(session, seconds)
    return _cancelled_by_the_next(session, seconds)


def _long_fields(session: Session) -> dict[str, Any]:
    """What makes a reply long: where the server knows it, the model's own end doesn't end it."""
    first, second = _LONG_TOKENS
    fields: dict[str, Any] = {"max_tokens": first, "ignore_eos": True}
    if _long(session, fields).reply.status != 200:
        del fields["ignore_eos"]
    if _seconds(_long(session, fields)) < _LONG_SECONDS:
        longer = fields | {"max_tokens": second}
        if _long(session, longer).reply.status == 200:
            return longer
    return fields


def _long(session: Session, fields: dict[str, Any]) -> Stream:
    return session.stream(OPENAI, _label(fields), _LONG, **fields)


def _label(fields: dict[str, Any]) -> str:
    return f"long reply: {fields}"


def _seconds(stream: Stream) -> float:
    return stream.reply.ended_at - stream.reply.head_at


def _running(session: Session) -> float | None:
    """Requests that run, as the server's metrics have it; None when they don't."""
    found = _RUNNING.findall(session.ask("GET", f"{session.target.root}/metrics", dialect=OPENAI).body)
    return sum(float(value) for value in found) if found else None


def _begin_and_leave(session: Session) -> None:
    """Ask for the long reply, read its first events, and go away."""
    body = OPENAI.stream(session.question(OPENAI, _LONG, **_long_fields(session)))
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    with session.open() as connection:
        connection.send("POST", OPENAI.path(session.target), json.dumps(body).encode(), headers)
        reply = connection.head()
        for _ in connection.chunks(reply):
            if len(Stream("", reply).objects) >= 3:
                break


def _cancelled_by_gauge(session: Session, seconds: float) -> str:
    _begin_and_leave(session)
    left = time.perf_counter()
    while (passed := time.perf_counter() - left) < seconds / 2:
        if _running(session) == 0:
            return f"nothing runs {passed:.2f} s later; it would have taken {seconds:.1f} s"
        time.sleep(0.02)
    raise Broken(f"{_running(session):g} requests still run {passed:.1f} s after the client has gone")


def _cancelled_by_the_next(session: Session, seconds: float) -> str:
    """On a server that answers one request at a time, the next one tells."""

    def wait() -> float:
        asked = time.perf_counter()
        session.post(OPENAI, session.question(OPENAI, limit=1))
        return time.perf_counter() - asked

    body = OPENAI.stream(session.question(OPENAI, _LONG, **_long_fields(session)))
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    alone = wait()
    with session.open() as connection:
        connection.send("POST", OPENAI.path(session.target), json.dumps(body).encode(), headers)
        reply = connection.head()
        behind = wait()
        for _ in connection.chunks(reply):
            pass
    if behind < alone + seconds / 2:
        raise NotSeen("no metrics tell what runs, and replies run side by side, so that none waits for another")
    _begin_and_leave(session)
    after = wait()
    expect(after < alone + seconds / 2, f"the next request waited {after:.1f} s for a reply that nobody reads")
    return f"the next request waited {after:.2f} s, behind a reply that is read {behind:.2f} s"
