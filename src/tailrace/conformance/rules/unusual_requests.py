"""Requests in unusual forms that clients and proxies do send. The rules hold for every dialect."""

from __future__ import annotations

import gzip
import json

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.connection import Response
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import ANY, Theme
from tailrace.conformance.session import QUESTION, Session, describe

THEME = Theme("Unusual forms", ANY)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

#: The first half of a surrogate pair, as JSON escapes it.
_HALF_PAIR = r"\ud83d"


def _question(session: Session, text: str = QUESTION) -> bytes:
    return json.dumps(session.question_body(session.main_dialect, text, limit=4)).encode()


@rule(
    "half-emoji",
    1,
    "half an emoji in a text is no reason to refuse it",
    ERROR,
    "clients that cut texts by length: the conversation fails for ever",
)
def half_emoji(session: Session) -> str:
    body = _question(session, f"{QUESTION} HALF").replace(b"HALF", _HALF_PAIR.encode())
    return http_bodies.expect_ok(session.post(session.main_dialect, body))


@rule("byte-order-mark", 1, "a byte order mark before the body is skipped", NOTE, "scripts on Windows: no answer")
def byte_order_mark(session: Session) -> str:
    return http_bodies.expect_ok(session.post(session.main_dialect, b"\xef\xbb\xbf" + _question(session)))


@rule(
    "compressed-body",
    1,
    "a compressed body is decoded, or refused as such with a 415",
    WARNING,
    "Codex compresses its requests",
)
def compressed_body(session: Session) -> str:
    reply = session.post(session.main_dialect, gzip.compress(_question(session)), {"Content-Encoding": "gzip"})
    require(reply.status in (200, 415), describe(reply))
    return str(reply.status)


@rule(
    "http-1.0",
    6,
    "a stream to an HTTP/1.0 client isn't chunked, and ends with the connection",
    WARNING,
    "nginx in front, as it is set by default: sizes of chunks within the text",
)
def http_1_0(session: Session) -> str:
    dialect = session.main_dialect
    if not dialect.can_stream:
        raise NotObserved("nothing is streamed")
    body = json.dumps(dialect.streamed(session.question_body(dialect, limit=4))).encode()
    headers = {"Content-Type": "application/json", **dialect.headers(session.target.key)}
    with session.open() as connection:
        connection.send("POST", dialect.path(session.target), body, headers, version="1.0")
        reply = connection.read()
    require(reply.status == 200, describe(reply))
    require(reply.framing != "chunked", "the stream is chunked")
    return f"{reply.status}, ended by the {'connection' if reply.framing == 'close' else 'length'}"


@rule(
    "server-wide",
    3,
    "OPTIONS * and GET * are no failure of the server",
    NOTE,
    "proxies' probes: errors in the log",
)
def server_wide(session: Session) -> str:
    replies = {method: _request_star(session, method) for method in ("OPTIONS", "GET")}
    for method, reply in replies.items():
        require(reply.status < 500, f"{method} * gives {describe(reply)}")
    return ", ".join(f"{method} * gives {reply.status}" for method, reply in replies.items())


def _request_star(session: Session, method: str) -> Response:
    return session.request(method, "*")


@rule("request-id", None, "responses have an x-request-id", NOTE, "a report can't be found in the server's log")
def request_id(session: Session) -> str:
    value = session.plain_response(session.main_dialect).header("x-request-id")
    require(value, "none")
    return str(value)
