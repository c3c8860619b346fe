"""Ollama's API: JSON line by line, and the routes that its clients ask before they chat."""

from __future__ import annotations

import re
from typing import Any

from tailrace.conformance import judge
from tailrace.conformance.connection import Reply
from tailrace.conformance.dialects import OLLAMA, OPENAI, Json, find
from tailrace.conformance.events import Event, Stream
from tailrace.conformance.rule import NotSeen, Severity, Theme, expect
from tailrace.conformance.rules.tools import TEXT, TOKENS, TOOL
from tailrace.conformance.rules.waits import long_text
from tailrace.conformance.session import QUESTION, Session, shown, summary

THEME = Theme("Ollama", OLLAMA.name)
rule = THEME.rule
ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_COUNTS = ("prompt_eval_count", "eval_count")
_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def _plain(session: Session) -> Stream:
    return session.streamed(OLLAMA)


def _api(session: Session, method: str, route: str, body: Json | None = None) -> Reply:
    return session.ask(method, f"{session.target.root}/api{route}", body, dialect=OLLAMA)


@rule("ollama-version", 33, "/api/version answers", ERROR, "Open WebUI takes the server for gone")
def version(session: Session) -> str:
    reply = _api(session, "GET", "/version")
    expect(reply.status == 200, summary(reply))
    value = find(reply.json(), "version")
    expect(isinstance(value, str) and re.match(r"\d+\.\d+\.\d+", value), f"version is {value!r}")
    return str(value)


@rule("ollama-version-alone", 33, "/api/version has version and nothing else", NOTE, "ollama4j refuses another key")
def version_alone(session: Session) -> str:
    body = _api(session, "GET", "/version").json()
    if not isinstance(body, dict):
        raise NotSeen("there is no version")
    expect(set(body) == {"version"}, f"the keys are {sorted(body)}")
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
    expect(reply.status == 200, summary(reply))
    rows = find(reply.json(), "models")
    expect(isinstance(rows, list) and rows, f"models is {shown(str(rows))}")
    for row in rows:
        for name in ("name", "model", "modified_at", "digest"):
            expect(isinstance(find(row, name), str) and row[name], f"{name} is {find(row, name)!r}")
        expect(_RFC3339.fullmatch(row["modified_at"]), f"modified_at is {row['modified_at']!r}")
        expect(type(find(row, "size")) is int, f"size is {find(row, 'size')!r}")
        expect(isinstance(find(row, "details"), dict), f"details are {find(row, 'details')!r}")
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
    expect(reply.status == 200, summary(reply))
    for name, kind in (("details", dict), ("model_info", dict), ("capabilities", list)):
        expect(isinstance(find(reply.json(), name), kind), f"{name} is {find(reply.json(), name)!r}")
    return ", ".join(map(str, reply.json()["capabilities"]))


@rule("ollama-ps", 33, "/api/ps lists what is loaded", WARNING, "clients show no loaded model")
def ps(session: Session) -> str:
    reply = _api(session, "GET", "/ps")
    expect(reply.status == 200, summary(reply))
    rows = find(reply.json(), "models")
    expect(isinstance(rows, list), f"models is {rows!r}")
    return f"{len(rows)} models"


@rule("ollama-answers", 33, "a chat is answered with 200 and a message", ERROR, "every client")
def answers(session: Session) -> str:
    return judge.answers(session, OLLAMA)


@rule(
    "ollama-whole",
    33,
    "a whole reply: model, created_at, done, done_reason and counts",
    ERROR,
    "ollama-python fails to read it",
)
def whole(session: Session) -> str:
    body = session.answered(OLLAMA)
    expect(isinstance(body.get("model"), str), f"model is {body.get('model')!r}")
    expect(_RFC3339.fullmatch(str(body.get("created_at"))), f"created_at is {body.get('created_at')!r}")
    return _last(body)


def _last(value: Json) -> str:
    expect(value.get("done") is True, f"done is {value.get('done')!r}")
    expect(value.get("done_reason") in ("stop", "length"), f"done_reason is {value.get('done_reason')!r}")
    for name in _COUNTS:
        # An Ollama server that found the whole prompt in its cache leaves the first out.
        expect(type(value.get(name, 0)) is int, f"{name} is {value.get(name)!r}")
    expect(value.get("eval_count"), "no eval_count")
    for name in _DURATIONS:
        expect(type(value.get(name)) is int, f"{name} is {value.get(name)!r}")
    return f"done_reason {value['done_reason']}, eval_count {value['eval_count']}"


@rule("ollama-head", 33, "the stream is application/x-ndjson, chunked, with one end", ERROR, "clients wait for ever")
def head(session: Session) -> str:
    stream = session.stream(OLLAMA)
    return ", ".join(
        [judge.status(stream), judge.media_type(stream, OLLAMA), judge.uncompressed(stream), judge.end(stream)]
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
        expect(event.raw.strip(), "a blank line")
        expect(event.raw.endswith(b"\n") and b"\r" not in event.raw, f"a line's end: {shown(event.raw[-12:])}")
        expect(event.object is not None, f"no object: {shown(event.raw)}")
    return f"{len(stream.events)} lines"


@rule(
    "ollama-default",
    33,
    "a chat streams when it doesn't say otherwise",
    ERROR,
    "Ollama's command shows nothing until the end",
)
def default(session: Session) -> str:
    reply = session.post(OLLAMA, session.question(OLLAMA, limit=4, stream=None))
    expect(reply.status == 200, summary(reply))
    found = Stream("default", reply, lines=True)
    expect(len(found.objects) >= 2 and found.objects[0].get("done") is False, shown(reply.body))
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
        expect(isinstance(value.get("model"), str), f"model is {value.get('model')!r}")
        expect(_RFC3339.fullmatch(str(value.get("created_at"))), f"created_at is {value.get('created_at')!r}")
    return str(_plain(session).objects[0]["created_at"])


@rule(
    "ollama-message", 33, "each line has a message of the assistant with a string content", ERROR, "clients show 'null'"
)
def message(session: Session) -> str:
    text = ""
    for value in _plain(session).objects:
        expect(find(value, "message", "role") == "assistant", f"message is {value.get('message')!r}")
        content = find(value, "message", "content")
        expect(isinstance(content, str), f"content is {content!r}")
        thought = find(value, "message", "thinking")
        text += content + (thought if isinstance(thought, str) else "")
    expect(text.strip(), "no text")
    return repr(shown(text, 40))


@rule(
    "ollama-nulls",
    33,
    "integers are never null, nor is anything else",
    ERROR,
    "Go clients take null for zero, others crash",
)
def nulls(session: Session) -> str:
    for value in _plain(session).objects:
        # What the last line has to have is the next rule's matter.
        names = [
            name for name, inner in value.items() if inner is None and name not in ("message", "created_at", "model")
        ]
        expect(not names, f"{', '.join(names)}: null")
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
        expect(value.get("done") is False, f"done is {value.get('done')!r} before the last line")
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
    expect(reply.status == 200, summary(reply))
    objects = Stream("generate", reply, lines=True).objects
    expect(objects and all(isinstance(value.get("response"), str) for value in objects), shown(reply.body))
    expect([value.get("done") for value in objects] == [False] * (len(objects) - 1) + [True], shown(reply.body))
    return repr("".join(value["response"] for value in objects))


@rule(
    "ollama-errors",
    33,
    "errors are {error: text}; an unknown model is a 404",
    ERROR,
    "clients show no reason; on a 404 they offer to pull the model",
)
def errors(session: Session) -> str:
    judge.refused(OLLAMA, session.post(OLLAMA, b'{"broken"'), (400,))
    reply = session.post(OLLAMA, session.question(OLLAMA, limit=4, model="no-such-model-1b"))
    if reply.status == 200:
        return "400; any model's name is taken"
    return f"400, {judge.refused(OLLAMA, reply, (404,))}"


@rule("ollama-tool", 33, "a tool call's arguments are an object", ERROR, "ollama-python fails on a string")
def tool(session: Session) -> str:
    fields: dict[str, Any] = {"tools": [TOOL], "options": {"num_predict": TOKENS, "temperature": 0}}
    stream = session.streamed(OLLAMA, "tool", TEXT, **fields)
    calls = [call for value in stream.objects for call in find(value, "message", "tool_calls") or []]
    if not calls:
        raise NotSeen("the model called no tool")
    for call in calls:
        expect(isinstance(find(call, "function", "name"), str), f"name is {find(call, 'function', 'name')!r}")
        arguments = find(call, "function", "arguments")
        expect(isinstance(arguments, dict), f"arguments are {arguments!r}")
    return f"{len(calls)} calls"


@rule("ollama-embed", 33, "/api/embed gives a list of vectors", WARNING, "searches in documents find nothing")
def embed(session: Session) -> str:
    reply = _api(session, "POST", "/embed", {"model": session.ollama_model, "input": ["The sea.", "A pump."]})
    if reply.status in (400, 404, 501):
        raise NotSeen(f"the model gives none: {summary(reply)}")
    expect(reply.status == 200, summary(reply))
    rows = find(reply.json(), "embeddings")
    expect(
        isinstance(rows, list) and len(rows) == 2 and find(rows, 0, 0) is not None, f"embeddings are {shown(str(rows))}"
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
    text = long_text(session.limits.long_prompt, 33)
    stream = session.streamed(OLLAMA, "long prompt", text, options={"num_predict": 4, "temperature": 0})
    return judge.silences([_plain(session), stream], session.limits.silence, _is_sign)


def _is_sign(event: Event) -> bool:
    value = event.object
    return find(value, "done") is False and find(value, "message", "content") == "" and len(value["message"]) == 2  # type: ignore[index]


@rule(
    "ollama-float-options",
    33,
    "options may be floats where they are integers",
    ERROR,
    "Home Assistant sends num_ctx 8192.0: no answer",
)
def float_options(session: Session) -> str:
    options = {"num_predict": 4.0, "num_ctx": 2048.0, "top_k": 20.0, "seed": 7.0, "temperature": 0}
    return judge.accepted(session, session.post(OLLAMA, session.question(OLLAMA, options=options)))


@rule(
    "ollama-names",
    33,
    "the names that /api/tags lists work in OpenAI's API too",
    WARNING,
    "Copilot takes the name from the one and asks the other",
)
def names(session: Session) -> str:
    if OPENAI not in session.dialects:
        raise NotSeen("OpenAI's API isn't checked")
    name = find(_api(session, "GET", "/tags").json(), "models", 0, "name")
    if not isinstance(name, str):
        raise NotSeen("no model is listed")
    name += "" if ":" in name else ":latest"  # To Ollama the same.
    reply = session.post(OPENAI, session.question(OPENAI, limit=4, model=name))
    expect(reply.status == 200, f"{name}: {summary(reply)}")
    return name


@rule(
    "ollama-capabilities",
    33,
    "/api/show lists tools where a chat takes them",
    WARNING,
    "llm-ollama and others don't offer tools to the model",
)
def capabilities(session: Session) -> str:
    taken = session.post(OLLAMA, session.question(OLLAMA, limit=4, tools=[TOOL]))
    if taken.status != 200:
        raise NotSeen(f"tools aren't taken: {summary(taken)}")
    found = find(_api(session, "POST", "/show", {"model": session.ollama_model}).json(), "capabilities")
    if not isinstance(found, list):
        raise NotSeen("no capabilities are shown")
    expect("tools" in found, f"capabilities are {found!r}")
    return ", ".join(found)
