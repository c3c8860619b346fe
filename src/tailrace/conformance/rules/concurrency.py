"""Concurrent requests, and requests whose client disconnects."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from tailrace.conformance.connection import Response
from tailrace.conformance.dialects import OPENAI, find
from tailrace.conformance.events import RecordedStream
from tailrace.conformance.outcome import NotObserved, RuleBroken, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.session import Session, describe, excerpt

THEME = Theme("Concurrency", OPENAI.name)
rule = THEME.rule
ERROR, WARNING = Severity.ERROR, Severity.WARNING

#: Prompts on different subjects, so a piece of one reply in another can't be chance.
_PROMPTS = (
    "List the months of the year in order, separated by commas.",
    "Explain in plain words how a bicycle pump works.",
    "Write the first lines of a fairy tale about a green dragon named Zorblax.",
)
#: Shortest piece of another reply that counts as mixed up, in characters.
_MIN_PIECE = 24

#: Gauges of running requests: vLLM's and tailrace's, llama-server's, SGLang's, TGI's.
_RUNNING = re.compile(
    rb"^(?:vllm:num_requests_running|llamacpp:requests_processing|sglang:num_running_reqs|tgi_batch_current_size)"
    rb"(?:\{[^}]*\})? ([0-9.e+]+)",
    re.MULTILINE,
)
_LONG_PROMPT = "Count from one to two hundred, in words, one number a line."
#: Token limits of a long reply. The second is used where the first takes less than ``Limits.min_long_reply``.
_LONG_TOKENS = (256, 2048)


@rule(
    "concurrent",
    10,
    "requests at the same time don't alter each other's text",
    ERROR,
    "Open WebUI's title and tag requests run into the chat's reply",
)
def concurrent(session: Session) -> str:
    single = [_text(session.post(OPENAI, _greedy(session, prompt))) for prompt in _PROMPTS]
    concurrent_replies = list(_concurrent_replies(session))
    for index, text in enumerate(concurrent_replies):
        others = [other for position, other in enumerate(single) if position != index]
        stray = next((piece for other in others if (piece := _piece(text, other, single[index]))), None)
        require(stray is None, f"a piece of another reply: {excerpt(stray or '')!r}")
    require(all(concurrent_replies) or not all(single), "a concurrent reply is empty")
    if concurrent_replies == single:
        return f"{len(single)} replies, each as in a single request"
    again = [_text(session.post(OPENAI, _greedy(session, prompt))) for prompt in _PROMPTS]
    if again != single:
        raise NotObserved("greedy replies differ here from one time to the next even in single requests")
    index = next(position for position, text in enumerate(concurrent_replies) if text != single[position])
    same = _common_prefix(concurrent_replies[index], single[index])
    if same == 0:
        raise RuleBroken(
            f"single {excerpt(single[index], 40)!r}, concurrent {excerpt(concurrent_replies[index], 40)!r}"
        )
    raise NotObserved(
        f"a reply differs from character {same} on, without a piece of another: rounding in a batch of another size "
        "does that"
    )


def _greedy(session: Session, prompt: str) -> dict[str, object]:
    return session.question_body(OPENAI, prompt)


def _text(reply: Response) -> str:
    body = reply.json()
    require(reply.status == 200, describe(reply))
    content, reasoning = (find(body, "choices", 0, "message", name) for name in ("content", "reasoning_content"))
    return (reasoning if isinstance(reasoning, str) else "") + (content if isinstance(content, str) else "")


def _concurrent_replies(session: Session) -> Iterator[str]:
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
    for start in range(len(other) - _MIN_PIECE + 1):
        piece = other[start : start + _MIN_PIECE]
        if piece in text and piece not in own:
            return piece
    return None


def _common_prefix(one: str, other: str) -> int:
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
    seconds = _seconds(session.streamed_answer(OPENAI, _label(fields), _LONG_PROMPT, **fields))
    if seconds < 0.5:
        raise NotObserved(f"the longest reply takes {seconds:.2f} s: too short to tell")
    if _running(session) is not None:
        return _cancelled_by_gauge(session, seconds)
    return _cancelled_by_the_next(session, seconds)


def _long_fields(session: Session) -> dict[str, Any]:
    """The fields of a long reply; with ``ignore_eos`` where the server knows it."""
    first, second = _LONG_TOKENS
    fields: dict[str, Any] = {"max_tokens": first, "ignore_eos": True}
    if _long(session, fields).reply.status != 200:
        del fields["ignore_eos"]
    if _seconds(_long(session, fields)) < session.limits.min_long_reply:
        longer = fields | {"max_tokens": second}
        if _long(session, longer).reply.status == 200:
            return longer
    return fields


def _long(session: Session, fields: dict[str, Any]) -> RecordedStream:
    return session.stream_response(OPENAI, _label(fields), _LONG_PROMPT, **fields)


def _label(fields: dict[str, Any]) -> str:
    return f"long reply: {fields}"


def _seconds(stream: RecordedStream) -> float:
    return stream.reply.ended_at - stream.reply.headers_at


def _running(session: Session) -> float | None:
    """The number of running requests in the server's metrics; None without such a metric."""
    found = _RUNNING.findall(session.request("GET", f"{session.target.root}/metrics", dialect=OPENAI).body)
    return sum(float(value) for value in found) if found else None


def _start_and_disconnect(session: Session) -> None:
    """Request the long reply, read its first events, and close the connection."""
    body = OPENAI.streamed(session.question_body(OPENAI, _LONG_PROMPT, **_long_fields(session)))
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    with session.open() as connection:
        connection.send("POST", OPENAI.path(session.target), json.dumps(body).encode(), headers)
        reply = connection.read_head()
        for _ in connection.read_body(reply):
            if len(RecordedStream("", reply).objects) >= 3:
                break


def _cancelled_by_gauge(session: Session, seconds: float) -> str:
    _start_and_disconnect(session)
    disconnected_at = time.perf_counter()
    while (passed := time.perf_counter() - disconnected_at) < seconds / 2:
        if _running(session) == 0:
            return f"nothing runs {passed:.2f} s later; it would have taken {seconds:.1f} s"
        time.sleep(0.02)
    raise RuleBroken(f"{_running(session):g} requests still run {passed:.1f} s after the client has gone")


def _cancelled_by_the_next(session: Session, seconds: float) -> str:
    """On a server that answers one request at a time, the waiting time of the next request tells."""

    def wait() -> float:
        started = time.perf_counter()
        session.post(OPENAI, session.question_body(OPENAI, limit=1))
        return time.perf_counter() - started

    body = OPENAI.streamed(session.question_body(OPENAI, _LONG_PROMPT, **_long_fields(session)))
    headers = {"Content-Type": "application/json", **OPENAI.headers(session.target.key)}
    single = wait()
    with session.open() as connection:
        connection.send("POST", OPENAI.path(session.target), json.dumps(body).encode(), headers)
        reply = connection.read_head()
        behind = wait()
        for _ in connection.read_body(reply):
            pass
    if behind < single + seconds / 2:
        raise NotObserved("no metrics tell what runs, and replies run side by side, so that none waits for another")
    _start_and_disconnect(session)
    after = wait()
    require(after < single + seconds / 2, f"the next request waited {after:.1f} s for a reply that nobody reads")
    return f"the next request waited {after:.2f} s, behind a reply that is read {behind:.2f} s"
