"""Requests in unusual forms that clients and proxies do send. Whatever the server speaks, these hold."""

from __future__ import annotations

import gzip
import json

from tailrace.conformance import judge
from tailrace.conformance.connection import Reply
from tailrace.conformance.rule import ANY, NotSeen, Severity, Theme, expect
from tailrace.conformance.session import QUESTION, Session, summary

THEME = Theme("Unusual forms", ANY)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

#: The first half of an emoji, as JSON writes it.
_HALF = r"\ud83d"


def _question(session: Session, text: str = QUESTION) -> bytes:
    return json.dumps(session.question(session.main, text, limit=4)).encode()


@rule(
    "half-emoji",
    1,
    "half an emoji in a text is no reason to refuse it",
    ERROR,
    "clients that cut texts by length: the conversation fails for ever",
)
def half_emoji(session: Session) -> str:
    body = _question(session, f"{QUESTION} HALF").replace(b"HALF", _HALF.encode())
    return judge.accepted(session, session.post(session.main, body))


@rule("byte-order-mark", 1, "a byte order mark before the body is skipped", NOTE, "scripts on Windows: no answer")
def byte_order_mark(session: Session) -> str:
    return judge.accepted(session, session.post(session.main, b"\xef\xbb\xbf" + _question(session)))


@rule(
    "compressed-body",
    1,
    "a compressed body is decoded, or refused as such with a 415",
    WARNING,
    "Codex compresses its requests",
)
def compressed_body(session: Session) -> str:
    reply = session.post(session.main, gzip.compress(_question(session)), {"Content-Encoding": "gzip"})
    expect(reply.status in (200, 415), summary(reply))
    return str(reply.status)


@rule(
    "http-1.0",
    6,
    "a stream to an HTTP/1.0 client isn't chunked, and ends with the connection",
    WARNING,
    "nginx in front, as it is set by default: sizes of chunks within the text",
)
def http_1_0(session: Session) -> str:
    dialect = session.main
    if not dialect.streams:
        raise NotSeen("nothing is streamed")
    body = json.dumps(dialect.stream(session.question(dialect, limit=4))).encode()
    headers = {"Content-Type": "application/json", **dialect.headers(session.target.key)}
    with session.open() as connection:
        connection.send("POST", dialect.path(session.target), body, headers, version="1.0")
        reply = connection.read()
    expect(reply.status == 200, summary(reply))
    expect(reply.framing != "chunked", "the stream is chunked")
    return f"{reply.status}, ended by the {'connection' if reply.framing == 'close' else 'length'}"


@rule(
    "server-wide",
    3,
    "OPTIONS * and GET * are no failure of the server",
    NOTE,
    "proxies' probes: errors in the log",
)
def server_wide(session: Session) -> str:
    replies = {method: _star(session, method) for method in ("OPTIONS", "GET")}
    for method, reply in replies.items():
        expect(reply.status < 500, f"{method} * gives {summary(reply)}")
    return ", ".join(f"{method} * gives {reply.status}" for method, reply in replies.items())


def _star(session: Session, method: str) -> Reply:
    return session.ask(method, "*")


@rule("request-id", None, "responses have an x-request-id", NOTE, "a report can't be found in the server's log")
def request_id(session: Session) -> str:
    value = session.answer(session.main).header("x-request-id")
    expect(value, "none")
    return str(value)
