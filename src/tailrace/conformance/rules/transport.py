"""HTTP below the dialects: bodies, paths, methods, keys, CORS, errors, connections. Holds for every dialect."""

from __future__ import annotations

import json
from typing import Any

from tailrace.conformance.assertions import http_bodies
from tailrace.conformance.connection import ConnectionClosed, ProtocolError, Response
from tailrace.conformance.dialects import find
from tailrace.conformance.outcome import NotObserved, RuleBroken, Severity, require
from tailrace.conformance.rule import ANY, Theme
from tailrace.conformance.session import Session, describe

THEME = Theme("Transport", ANY)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_ORIGIN = "http://localhost:3000"
_REQUESTED_HEADERS = ("authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-os")


def _small_request(session: Session, headers: dict[str, str] | None = None, **more: Any) -> Response:
    return session.post(session.main_dialect, session.question_body(session.main_dialect, limit=4, **more), headers)


# Bodies


@rule("chunked-upload", 1, "a body may come in chunks", ERROR, "one-api, new-api and other relays in Go send so")
def chunked_upload(session: Session) -> str:
    body = session.question_body(session.main_dialect, limit=4)
    reply = session.request("POST", session.main_dialect.path(session.target), body, chunk_size=16)
    return http_bodies.expect_ok(reply)


@rule("charset", 1, "Content-Type may name a charset", ERROR, "Java's and .NET's HTTP clients add one")
def charset(session: Session) -> str:
    return http_bodies.expect_ok(_small_request(session, {"Content-Type": "application/json; charset=utf-8"}))


@rule(
    "accept", 1, "any Accept will do, or none", ERROR, "relays and browsers send their own, at times text/event-stream"
)
def accept(session: Session) -> str:
    for value in ("text/event-stream", "*/*", "text/html"):
        reply = _small_request(session, {"Accept": value})
        require(reply.status == 200, f"Accept: {value} gives {describe(reply)}")
    return "text/event-stream, */*, text/html, none"


# Paths


def _spellings(session: Session) -> list[str]:
    """The other spellings of the main route, but for the one without /v1."""
    path = session.main_dialect.path(session.target)
    below = path.removeprefix(session.target.root)
    spellings = [path + "/", session.target.root + below.replace("/", "//")]
    return [*spellings, session.target.root + "/v1" + below] if below.startswith("/v1/") else spellings


@rule("without-v1", 2, "routes answer without /v1 too", WARNING, "clients whose base URL was set without it: 404")
def without_v1(session: Session) -> str:
    below = session.main_dialect.path(session.target).removeprefix(session.target.root)
    if not below.startswith("/v1/"):
        raise NotObserved("the paths here have no /v1")
    path = session.target.root + below.removeprefix("/v1")
    reply = session.request("POST", path, session.question_body(session.main_dialect, limit=4))
    require(reply.status < 300 or reply.status >= 400, "a redirect")
    require(reply.status == 200, f"POST {path} gives {describe(reply)}")
    return f"POST {path} answers"


@rule(
    "slashes", 2, "//, a trailing / and /v1/v1 are tolerated", WARNING, "base URLs that end in / or in /v1 twice: 404"
)
def slashes(session: Session) -> str:
    for path in _spellings(session):
        reply = session.request("POST", path, session.question_body(session.main_dialect, limit=4))
        # The next rule checks redirects.
        require(reply.status == 200 or 300 <= reply.status < 400, f"POST {path} gives {describe(reply)}")
    return ", ".join(_spellings(session))


@rule(
    "no-redirect",
    2,
    "a POST is never redirected",
    ERROR,
    "most clients send a GET after a 301 or 302, without the body",
)
def no_redirect(session: Session) -> str:
    for path in [session.main_dialect.path(session.target), *_spellings(session)]:
        reply = session.request("POST", path, session.question_body(session.main_dialect, limit=4))
        require(not 300 <= reply.status < 400, f"POST {path} gives {reply.status} to {reply.header('location')}")
    return "no 3xx on any spelling of the path"


# Methods and CORS


@rule(
    "preflight",
    3,
    "OPTIONS answers 2xx without a key, and allows the requested headers",
    WARNING,
    "clients in a browser (NextChat, LobeChat) can't send a request",
)
def preflight(session: Session) -> str:
    headers = {
        "Origin": _ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": ",".join(_REQUESTED_HEADERS),
    }
    reply = session.request("OPTIONS", session.main_dialect.path(session.target), headers=headers, key=False)
    require(200 <= reply.status < 300, describe(reply))
    _expect_cors(reply)
    allowed = (reply.header("access-control-allow-headers") or "").lower()
    # A star allows every header but Authorization.
    missing = [
        name for name in _REQUESTED_HEADERS if name not in allowed and ("*" not in allowed or name == "authorization")
    ]
    require(not missing, f"access-control-allow-headers lacks {', '.join(missing)}")
    return f"{reply.status}, the headers asked for"


@rule(
    "cors-on-errors",
    3,
    "errors have CORS headers too",
    WARNING,
    "a client in a browser shows 'Failed to fetch' instead",
)
def cors_on_errors(session: Session) -> str:
    reply = session.post(session.main_dialect, b"{", {"Origin": _ORIGIN})
    return _expect_cors(reply)


@rule("cors-on-streams", 3, "streams have CORS headers too", WARNING, "a client in a browser shows nothing")
def cors_on_streams(session: Session) -> str:
    if not session.main_dialect.can_stream:
        raise NotObserved("this dialect has no streams")
    body = session.question_body(session.main_dialect, limit=4)
    stream = session.read_stream(session.main_dialect, "CORS", body, {"Origin": _ORIGIN})
    return _expect_cors(stream.reply)


def _expect_cors(reply: Response) -> str:
    allowed = reply.header("access-control-allow-origin")
    require(allowed in ("*", _ORIGIN), f"{reply.status}, access-control-allow-origin: {allowed}")
    return f"access-control-allow-origin: {allowed}"


@rule(
    "liveness",
    4,
    "GET and HEAD on / and /health answer 200",
    WARNING,
    "probes of containers; Ollama's command asks HEAD / before anything else",
)
def liveness(session: Session) -> str:
    for path in (f"{session.target.root}/", f"{session.target.root}/health"):
        for method in ("GET", "HEAD"):
            reply = session.request(method, path)
            require(reply.status == 200, f"{method} {path} gives {reply.status}")
    return "200 four times"


# Keys


@rule("any-key", 5, "without a key set, any or none will do", ERROR, "most clients insist on sending one: 401")
def any_key(session: Session) -> str:
    if session.target.key is not None:
        raise NotObserved("a key was given with --key")
    for headers in ({"Authorization": "Bearer sk-any"}, {"x-api-key": "any"}):
        reply = _small_request(session, headers)
        require(reply.status == 200, f"{next(iter(headers))} gives {describe(reply)}")
    return "Authorization and x-api-key are let pass"


@rule(
    "wrong-key",
    5,
    "a wrong key is a 401 in each dialect's shape",
    ERROR,
    "clients show no reason; what the server knows is open to all",
)
def wrong_key(session: Session) -> str:
    if session.target.key is None:
        raise NotObserved("no --key was given")
    wrong = {"Authorization": "Bearer wrong", "x-api-key": "wrong"}
    for dialect in session.dialects:
        reply = session.post(dialect, session.question_body(dialect, limit=4), wrong)
        if reply.status == 200:
            raise NotObserved(f"{dialect.path(session.target)} asks for no key")
        http_bodies.expect_error(dialect, reply, (401,))
    listed = session.request("GET", f"{session.target.api}/models", headers=wrong)
    require(listed.status in (401, 404), f"the list of models gives {listed.status} with a wrong key")
    return f"401 in {', '.join(dialect.name for dialect in session.dialects)}"


@rule(
    "either-header",
    5,
    "the key is read from Authorization and from x-api-key",
    WARNING,
    "Anthropic's clients send x-api-key, all others Authorization",
)
def either_header(session: Session) -> str:
    key = session.target.key
    if key is None:
        raise NotObserved("no --key was given")
    path, body = session.main_dialect.path(session.target), session.question_body(session.main_dialect, limit=4)
    for headers in ({"Authorization": f"Bearer {key}"}, {"x-api-key": key}):
        reply = session.request("POST", path, body, {**headers, **session.main_dialect.headers(None)}, key=False)
        require(reply.status == 200, f"{next(iter(headers))} alone gives {describe(reply)}")
    return "both"


# Errors before the headers


@rule(
    "error-shape",
    7,
    "a broken body is a 4xx with the dialect's error as JSON",
    ERROR,
    "clients show no reason, or fail while they read it",
)
def error_shape(session: Session) -> str:
    return http_bodies.expect_error(session.main_dialect, session.post(session.main_dialect, b'{"broken"'), (400, 422))


@rule(
    "unknown-route",
    7,
    "an unknown route is a 404 with JSON",
    WARNING,
    "a wrong base URL looks like a broken server",
)
def unknown_route(session: Session) -> str:
    # The path belongs to no dialect, so the error may have any shape.
    reply = session.request("POST", f"{session.target.api}/no-such-route", {})
    require(reply.status == 404, describe(reply))
    require(find(reply.json(), "error") is not None, f"404 without an error: {describe(reply)}")
    return "404 with an error"


@rule("unknown-model", 7, "an unknown model is a 404 or 400 that says so", WARNING, "the user sees no reason")
def unknown_model(session: Session) -> str:
    name = "no-such-model-1b"
    reply = _small_request(session, model=name)
    if reply.status == 200:
        raise NotObserved("the server takes any model's name")
    http_bodies.expect_error(session.main_dialect, reply, (400, 404))
    require(name.encode() in reply.body, f"the error doesn't name it: {describe(reply)}")
    return f"{reply.status}, and it is named"


@rule(
    "not-401",
    7,
    "401 is for keys alone, and no error says credit or balance",
    ERROR,
    "one-api disables the channel on either",
)
def not_401(session: Session) -> str:
    replies = [
        session.post(session.main_dialect, b'{"broken"'),
        session.post(session.main_dialect, {}),
        session.request("POST", f"{session.target.api}/no-such-route", {}),
        _small_request(session, model="no-such-model-1b"),
    ]
    for reply in replies:
        require(reply.status not in (401, 403), describe(reply))
        words = [
            word.decode() for word in http_bodies.DISABLING_WORDS if reply.status >= 400 and word in reply.body.lower()
        ]
        require(not words, f"an error says {words[0] if words else ''!r}: {describe(reply)}")
    return ", ".join(str(reply.status) for reply in replies)


# Connections


@rule(
    "connection-reuse",
    6,
    "a connection goes on after a stream",
    ERROR,
    "clients keep connections: the second question fails or hangs",
)
def connection_reuse(session: Session) -> str:
    outcome = _second_question(session)
    if outcome is not None:
        raise NotObserved(f"the server closes the connection after each stream{outcome}")
    return "two questions on one connection"


@rule(
    "connection-close",
    6,
    "a connection that won't go on says 'connection: close'",
    WARNING,
    "a client's next question on it may fail before the client has noticed",
)
def connection_close(session: Session) -> str:
    try:
        outcome = _second_question(session)
    except (RuleBroken, ProtocolError) as error:
        raise NotObserved(f"the connection is left in a state of its own: {error}") from None
    require(not outcome, f"the connection is closed{outcome}")
    return "the connection goes on" if outcome is None else "it says so"


def _second_question(session: Session) -> str | None:
    """Send two requests on one connection. None when both get a reply, else how the server closed it after the first.

    ``""`` means that the server announced it. Raises RuleBroken and ProtocolError when the second reply is broken.
    """
    return session.observe_once("second question", lambda: _ask_twice(session))


def _ask_twice(session: Session) -> str | None:
    dialect = session.main_dialect
    body = session.question_body(dialect, limit=4)
    data = json.dumps(dialect.streamed(body) if dialect.can_stream else body).encode()
    headers = {"Content-Type": "application/json", **dialect.headers(session.target.key)}
    with session.open() as connection:
        for turn in range(2):
            connection.send("POST", dialect.path(session.target), data, headers)
            try:
                reply = connection.read()
            except ConnectionClosed:
                if turn == 0:
                    raise
                return " without having said so"
            require(reply.status == 200, f"request {turn + 1} on the connection gives {describe(reply)}")
            if turn == 0 and ((reply.header("connection") or "").lower() == "close" or reply.framing == "close"):
                return ""
    return None
