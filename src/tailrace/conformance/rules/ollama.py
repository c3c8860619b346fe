"""Ollama's API: its NDJSON streams, and the routes that its clients request before they chat."""

from __future__ import annotations

import re
from typing import Any

from tailrace.conformance.assertions import http_bodies, keep_alives, stream_headers
from tailrace.conformance.connection import Response
from tailrace.conformance.dialects import OLLAMA, OPENAI, Json, find
from tailrace.conformance.events import RecordedStream, StreamEvent
from tailrace.conformance.outcome import NotObserved, Severity, require
from tailrace.conformance.rule import Theme
from tailrace.conformance.rules.latency import long_text
from tailrace.conformance.rules.tool_calls import CALL_TOKENS, TOOL, TOOL_PROMPT
from tailrace.conformance.session import QUESTION, Session, describe, excerpt

THEME = Theme("Ollama", OLLAMA.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_COUNTS = ("prompt_eval_count", "eval_count")
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def _plain(session: Session) -> RecordedStream:
    return session.streamed_answer(OLLAMA)


def _api(session: Session, method: str, route: str, body: Json | None = None) -> Response:
    return session.request(method, f"{session.target.root}/api{route}", body, dialect=OLLAMA)


@rule("ollama-version", 33, "/api/version answers", ERROR, "Open WebUI takes the server for gone")
def version(session: Session) -> str:
    reply = _api(session, "GET", "/version")
    require(reply.status == 200, describe(reply))
    value = find(reply.json(), "version")
    require(isinstance(value, str) and re.match(r"\d+\.\d+\.\d+", value), f"version is {value!r}")
    return str(value)


@rule("ollama-version-alone", 33, "/api/version has version and nothing else", NOTE, "ollama4j refuses another key")
def version_alone(session: Session) -> str:
    body = _api(session, "GET", "/version").json()
    if not isinstance(body, dict):
        raise NotObserved("there is no version")
    require(set(body) == {"version"}, f"the keys are {sorted(body)}")
    return "version"


@rule(
    "ollama-tags",
    33,
    "/api/tags: rows with both name and model",
    ERROR,
    "clients read one or the other: no model to choose",
)
def tags(session: Session) -> str:
    reply = _api(session, "GET", "/tags")
    require(reply.status == 200, describe(reply))
    rows = find(reply.json(), "models")
    require(isinstance(rows, list) and rows, f"models is {excerpt(str(rows))}")
    for row in rows:
        for name in ("name", "model", "modified_at", "digest"):
            require(isinstance(find(row, name), str) and row[name], f"{name} is {find(row, name)!r}")
        require(_RFC3339.fullmatch(row["modified_at"]), f"modified_at is {row['modified_at']!r}")
        require(type(find(row, "size")) is int, f"size is {find(row, 'size')!r}")
        require(isinstance(find(row, "details"), dict), f"details are {find(row, 'details')!r}")
    return f"{len(rows)} models"


@rule(
    "ollama-show",
    33,
    "/api/show tells details, model_info and capabilities",
    WARNING,
    "clients don't know of tools or the context",
)
def show(session: Session) -> str:
    reply = _api(session, "POST", "/show", {"model": session.ollama_model})
    require(reply.status == 200, describe(reply))
    for name, kind in (("details", dict), ("model_info", dict), ("capabilities", list)):
        require(isinstance(find(reply.json(), name), kind), f"{name} is {find(reply.json(), name)!r}")
    return ", ".join(map(str, reply.json()["capabilities"]))


@rule("ollama-ps", 33, "/api/ps lists what is loaded", WARNING, "clients show no loaded model")
def ps(session: Session) -> str:
    reply = _api(session, "GET", "/ps")
    require(reply.status == 200, describe(reply))
    rows = find(reply.json(), "models")
    require(isinstance(rows, list), f"models is {rows!r}")
    return f"{len(rows)} models"


@rule("ollama-answers", 33, "a chat is answered with 200 and a message", ERROR, "every client")
def answers(session: Session) -> str:
    return http_bodies.expect_answer(session, OLLAMA)


@rule(
    "ollama-whole",
    33,
    "a whole reply: model, created_at, done, done_reason and counts",
    ERROR,
    "ollama-python fails to read it",
)
def whole(session: Session) -> str:
    body = session.plain_answer(OLLAMA)
    require(isinstance(body.get("model"), str), f"model is {body.get('model')!r}")
    require(_RFC3339.fullmatch(str(body.get("created_at"))), f"created_at is {body.get('created_at')!r}")
    return _last(body)


def _last(value: Json) -> str:
    require(value.get("done") is True, f"done is {value.get('done')!r}")
    require(value.get("done_reason") in ("stop", "length"), f"done_reason is {value.get('done_reason')!r}")
    for name in _COUNTS:
        # Ollama leaves out prompt_eval_count when the whole prompt was cached.
        require(type(value.get(name, 0)) is int, f"{name} is {value.get(name)!r}")
    require(value.get("eval_count"), "no eval_count")
    for name in _DURATIONS:
        require(type(value.get(name)) is int, f"{name} is {value.get(name)!r}")
    return f"done_reason {value['done_reason']}, eval_count {value['eval_count']}"


@rule("ollama-head", 33, "the stream is application/x-ndjson, chunked, with one end", ERROR, "clients wait for ever")
def head(session: Session) -> str:
    stream = session.stream_response(OLLAMA)
    return ", ".join(
        [
            stream_headers.expect_ok(stream),
            stream_headers.expect_media_type(stream, OLLAMA),
            stream_headers.expect_uncompressed(stream),
            stream_headers.expect_one_end(stream),
        ]
    )


@rule(
    "ollama-lines",
    33,
    "one object a line, no blank line, LF alone",
    ERROR,
    "a blank line kills Open WebUI's and ollama-python's reader",
)
def lines(session: Session) -> str:
    stream = _plain(session)
    for event in stream.events:
        require(event.raw.strip(), "a blank line")
        require(event.raw.endswith(b"\n") and b"\r" not in event.raw, f"a line's end: {excerpt(event.raw[-12:])}")
        require(event.object is not None, f"no object: {excerpt(event.raw)}")
    return f"{len(stream.events)} lines"


@rule(
    "ollama-default",
    33,
    "a chat streams when it doesn't say otherwise",
    ERROR,
    "Ollama's command shows nothing until the end",
)
def default(session: Session) -> str:
    reply = session.post(OLLAMA, session.question_body(OLLAMA, limit=4, stream=None))
    require(reply.status == 200, describe(reply))
    found = RecordedStream("default", reply, ndjson=True)
    require(len(found.objects) >= 2 and found.objects[0].get("done") is False, excerpt(reply.body))
    return f"{len(found.objects)} lines"


@rule(
    "ollama-times",
    33,
    "model is a string and created_at RFC 3339 in every line",
    ERROR,
    "typed clients fail to read it",
)
def times(session: Session) -> str:
    for value in _plain(session).objects:
        require(isinstance(value.get("model"), str), f"model is {value.get('model')!r}")
        require(_RFC3339.fullmatch(str(value.get("created_at"))), f"created_at is {value.get('created_at')!r}")
    return str(_plain(session).objects[0]["created_at"])


@rule(
    "ollama-message", 33, "each line has a message of the assistant with a string content", ERROR, "clients show 'null'"
)
def message(session: Session) -> str:
    text = ""
    for value in _plain(session).objects:
        require(find(value, "message", "role") == "assistant", f"message is {value.get('message')!r}")
        content = find(value, "message", "content")
        require(isinstance(content, str), f"content is {content!r}")
        thought = find(value, "message", "thinking")
        text += content + (thought if isinstance(thought, str) else "")
    require(text.strip(), "no text")
    return repr(excerpt(text, 40))


@rule(
    "ollama-nulls",
    33,
    "integers are never null, nor is anything else",
    ERROR,
    "Go clients take null for zero, others crash",
)
def nulls(session: Session) -> str:
    for value in _plain(session).objects:
        # The next rule checks the fields of the last line.
        names = [
            name for name, inner in value.items() if inner is None and name not in ("message", "created_at", "model")
        ]
        require(not names, f"{', '.join(names)}: null")
    return "none"


@rule(
    "ollama-done",
    33,
    "the last line alone is done, with done_reason and counts",
    ERROR,
    "clients never finish, or show no speed",
)
def done(session: Session) -> str:
    objects = _plain(session).objects
    for value in objects[:-1]:
        require(value.get("done") is False, f"done is {value.get('done')!r} before the last line")
    return _last({name: value for name, value in objects[-1].items() if value is not None})


@rule(
    "ollama-generate",
    33,
    "/api/generate streams a string response and ends done",
    ERROR,
    "editors' plugins show nothing",
)
def generate(session: Session) -> str:
    body = {"model": session.ollama_model, "prompt": QUESTION, "options": {"num_predict": 8, "temperature": 0}}
    reply = _api(session, "POST", "/generate", body)
    require(reply.status == 200, describe(reply))
    objects = RecordedStream("generate", reply, ndjson=True).objects
    require(objects and all(isinstance(value.get("response"), str) for value in objects), excerpt(reply.body))
    require([value.get("done") for value in objects] == [False] * (len(objects) - 1) + [True], excerpt(reply.body))
    return repr("".join(value["response"] for value in objects))


@rule(
    "ollama-errors",
    33,
    "errors are {error: text}; an unknown model is a 404",
    ERROR,
    "clients show no reason; on a 404 they offer to pull the model",
)
def errors(session: Session) -> str:
    http_bodies.expect_error(OLLAMA, session.post(OLLAMA, b'{"broken"'), (400,))
    reply = session.post(OLLAMA, session.question_body(OLLAMA, limit=4, model="no-such-model-1b"))
    if reply.status == 200:
        return "400; any model's name is taken"
    return f"400, {http_bodies.expect_error(OLLAMA, reply, (404,))}"


@rule("ollama-tool", 33, "a tool call's arguments are an object", ERROR, "ollama-python fails on a string")
def tool(session: Session) -> str:
    fields: dict[str, Any] = {"tools": [TOOL], "options": {"num_predict": CALL_TOKENS, "temperature": 0}}
    stream = session.streamed_answer(OLLAMA, "tool", TOOL_PROMPT, **fields)
    calls = [call for value in stream.objects for call in find(value, "message", "tool_calls") or []]
    if not calls:
        raise NotObserved("the model called no tool")
    for call in calls:
        require(isinstance(find(call, "function", "name"), str), f"name is {find(call, 'function', 'name')!r}")
        arguments = find(call, "function", "arguments")
        require(isinstance(arguments, dict), f"arguments are {arguments!r}")
    return f"{len(calls)} calls"


@rule("ollama-embed", 33, "/api/embed gives a list of vectors", WARNING, "searches in documents find nothing")
def embed(session: Session) -> str:
    reply = _api(session, "POST", "/embed", {"model": session.ollama_model, "input": ["The sea.", "A pump."]})
    if reply.status in (400, 404, 501):
        raise NotObserved(f"the model gives none: {describe(reply)}")
    require(reply.status == 200, describe(reply))
    rows = find(reply.json(), "embeddings")
    require(
        isinstance(rows, list) and len(rows) == 2 and find(rows, 0, 0) is not None,
        f"embeddings are {excerpt(str(rows))}",
    )
    return f"2 vectors of {len(rows[0])} numbers"


@rule(
    "ollama-keep-alive",
    30,
    "a silent stream shows life by an object with empty content",
    WARNING,
    "clients give up on long prompts",
)
def keep_alive(session: Session) -> str:
    text = long_text(session.limits.long_prompt_words, 33)
    stream = session.streamed_answer(OLLAMA, "long prompt", text, options={"num_predict": 4, "temperature": 0})
    return keep_alives.expect_no_long_silence([_plain(session), stream], session.limits.max_silence, _is_sign)


def _is_sign(event: StreamEvent) -> bool:
    value = event.object
    return find(value, "done") is False and find(value, "message", "content") == "" and len(value["message"]) == 2  # type: ignore[index]  # find has made sure that it is an object


@rule(
    "ollama-float-options",
    33,
    "options may be floats where they are integers",
    ERROR,
    "Home Assistant sends num_ctx 8192.0: no answer",
)
def float_options(session: Session) -> str:
    options = {"num_predict": 4.0, "num_ctx": 2048.0, "top_k": 20.0, "seed": 7.0, "temperature": 0}
    return http_bodies.expect_ok(session.post(OLLAMA, session.question_body(OLLAMA, options=options)))


@rule(
    "ollama-names",
    33,
    "the names that /api/tags lists work in OpenAI's API too",
    WARNING,
    "Copilot takes the name from the one and asks the other",
)
def names(session: Session) -> str:
    if OPENAI not in session.dialects:
        raise NotObserved("OpenAI's API isn't checked")
    name = find(_api(session, "GET", "/tags").json(), "models", 0, "name")
    if not isinstance(name, str):
        raise NotObserved("no model is listed")
    name += "" if ":" in name else ":latest"  # To Ollama the same.
    reply = session.post(OPENAI, session.question_body(OPENAI, limit=4, model=name))
    require(reply.status == 200, f"{name}: {describe(reply)}")
    return name


@rule(
    "ollama-capabilities",
    33,
    "/api/show lists tools where a chat takes them",
    WARNING,
    "llm-ollama and others don't offer tools to the model",
)
def capabilities(session: Session) -> str:
    taken = session.post(OLLAMA, session.question_body(OLLAMA, limit=4, tools=[TOOL]))
    if taken.status != 200:
        raise NotObserved(f"tools aren't taken: {describe(taken)}")
    found = find(_api(session, "POST", "/show", {"model": session.ollama_model}).json(), "capabilities")
    if not isinstance(found, list):
        raise NotObserved("no capabilities are shown")
    require("tools" in found, f"capabilities are {found!r}")
    return ", ".join(found)
