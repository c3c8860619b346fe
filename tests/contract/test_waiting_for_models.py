"""Requests whose model is loaded only when they come: keep-alives before the reply, errors, deadlines, clients that go.

Each load takes a second, and a stream has a keep-alive after 0.3 s, so each test asks for a model of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

import ollama_wire
from anthropic_wire import events as anthropic_events
from anthropic_wire import message_stream
from openai_wire import Connection, Reply, ask, chat, chat_stream, failed_stream, metric, text_stream
from responses_wire import framed, response_stream
from servers import ServerProcess, fake, wait_for

SAY = "<say>ab</say>"
USER = [{"role": "user", "content": SAY}]
VERSION = {"anthropic-version": "2023-06-01"}
#: Tests of streams, and a model for each.
MODELS = ("first", "broken", "chat", "comments", "text", "messages", "responses", "background", "api-chat")
MORE = ("api-generate", "native", "whole", "late", "gone", "kept", "loaded", "wrong", "quick")


@pytest.fixture(scope="module")
def lazy() -> Iterator[ServerProcess]:
    """Loads the first model with the server, the others on demand; unloads each after three idle seconds."""
    script = {"fake_load_seconds": "1", "fake_load_fails": "broken=the file is cut", "idle_seconds": "3"}
    with fake(*MODELS, *MORE, "--keepalive-seconds", "0.3", step=0.0, **script) as server:
        yield server


def post(server: ServerProcess, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
    return ask(server.port, "POST", path, body, headers or {})


def is_loaded(server: ServerProcess, model: str) -> bool:
    lines = ask(server.port, "GET", "/metrics").body.decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f'tailrace:model_loaded{{model_name="{model}"')]
    return line.endswith(" 1.0")


def test_chat(lazy: ServerProcess) -> None:
    """The role comes first, as in each stream, then empty deltas."""
    reply = post(lazy, "/v1/chat/completions", chat(SAY, stream=True, model="chat"))
    assert chat_stream(reply).text == ["ab"]
    empty = b'"delta":{"content":""},"finish_reason":null}]}\n\n'
    assert b'"role":"assistant"' in reply.chunks[0]
    assert reply.chunks[1].endswith(empty)
    assert sum(b'"role"' in chunk for chunk in reply.chunks) == 1


def test_text_completion(lazy: ServerProcess) -> None:
    reply = post(lazy, "/v1/completions", {"prompt": SAY, "stream": True, "model": "text", "echo": True})
    assert text_stream(reply).text == [SAY + "ab"]
    assert b'"text":""' in reply.chunks[0]
    assert b'"text":""' in reply.chunks[1]


def test_message(lazy: ServerProcess) -> None:
    """Pings come before the message's start, which has the count of its prompt's tokens."""
    body = {"messages": USER, "stream": True, "max_tokens": 20, "model": "messages"}
    reply = post(lazy, "/v1/messages", body, VERSION)
    message = message_stream(reply)
    assert message.text == "ab"
    assert message.started["usage"]["input_tokens"] > 0
    assert [event["type"] for event in anthropic_events(reply.chunks)[:2]] == ["ping", "ping"]


def test_response(lazy: ServerProcess) -> None:
    reply = post(lazy, "/v1/responses", {"input": SAY, "stream": True, "model": "responses"})
    told = response_stream(reply)
    assert told.response["model"] == "responses"
    kinds = [event["type"] for event in framed(reply.chunks)]
    assert kinds[:4] == ["response.created", *["response.in_progress"] * 3]
    identity = told.response["id"]
    assert ask(lazy.port, "GET", f"/v1/responses/{identity}").json()["status"] == "completed"


def test_response_in_the_background(lazy: ServerProcess) -> None:
    """A recorded event's number is its place, so keep-alives before the first one are comments."""
    body = {"input": SAY, "stream": True, "background": True, "model": "background"}
    reply = post(lazy, "/v1/responses", body)
    comments = [chunk for chunk in reply.chunks if chunk.startswith(b":")]
    assert reply.chunks[: len(comments)] == comments != []
    told = framed(reply.chunks[len(comments) :])
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert told[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("path", "model", "fields"),
    [("/api/chat", "api-chat", {"messages": USER}), ("/api/generate", "api-generate", {"prompt": SAY})],
)
def test_ollama(lazy: ServerProcess, path: str, model: str, fields: dict[str, Any]) -> None:
    told = ollama_wire.stream(post(lazy, path, {**fields, "model": model}))
    assert told.text == "ab"
    assert len(told.objects) >= 2 + 3, "keep-alives are objects without text"
    assert told.last["load_duration"] >= 1_000_000_000


def test_llama_server(lazy: ServerProcess) -> None:
    reply = post(lazy, "/completion", {"prompt": SAY, "stream": True, "model": "native"})
    comments = [chunk for chunk in reply.chunks if chunk == b": keep-alive\n\n"]
    assert len(comments) >= 2
    told = [json.loads(chunk[6:]) for chunk in reply.chunks[len(comments) :]]
    assert "".join(piece["content"] for piece in told) == "ab"
    assert told[-1]["stop"] is True


def test_a_reply_that_is_not_streamed_waits(lazy: ServerProcess) -> None:
    reply = post(lazy, "/v1/chat/completions", chat(SAY, model="whole"))
    assert (reply.status, reply.json()["choices"][0]["message"]["content"]) == (200, "ab")


def test_a_loaded_model_is_not_kept_waiting_by_one_that_loads(lazy: ServerProcess) -> None:
    post(lazy, "/api/generate", {"model": "first", "keep_alive": -1})
    with Connection(lazy.port) as waiting:
        waiting.request("POST", "/v1/chat/completions", chat(SAY, model="quick"))
        wait_for("the load", lambda: metric(lazy.port, "tailrace:model_waiting_requests") == 1)
        assert post(lazy, "/v1/chat/completions", chat(SAY, model="first")).status == 200
        assert metric(lazy.port, "tailrace:model_waiting_requests") == 1
        assert waiting.read().status == 200


# What goes wrong


def test_a_wrong_request_is_refused_before_its_model_is_loaded(lazy: ServerProcess) -> None:
    for stream in (True, False):
        reply = post(lazy, "/v1/chat/completions", chat(SAY, stream=stream, model="wrong", modalities=["audio"]))
        assert (reply.status, reply.error()["param"]) == (400, "modalities")
    assert not is_loaded(lazy, "wrong")


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": SAY, "n": 3, "best_of": 1}, "best_of"),
        ("/v1/responses", {"input": SAY, "background": True, "store": False}, "background"),
        (
            "/v1/messages",
            {"messages": USER, "max_tokens": 5, "tools": [{"type": "bash_20250124", "name": "b"}]},
            "tools",
        ),
        ("/v1/messages", {"messages": USER, "max_tokens": 0}, "max_tokens"),
        ("/completion", {"prompt": SAY, "lora": [{"id": 0, "scale": 1}]}, "lora"),
        ("/infill", {"input_prefix": "a", "input_suffix": "b", "echo": True}, "echo"),
        ("/api/chat", {"messages": [{"role": "user", "content": "a", "images": ["x"]}]}, "images"),
        ("/api/generate", {"prompt": "a", "template": "x"}, "template"),
        ("/api/embed", {"input": "a", "keep_alive": "soon"}, "keep_alive"),
        ("/v1/embeddings", {"input": []}, "input"),
        ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
    ],
)
def test_every_dialect_refuses_a_wrong_request_before_the_load(
    lazy: ServerProcess, path: str, fields: dict[str, Any], param: str
) -> None:
    for stream in (True, False):
        streamed = {} if path.startswith(("/v1/embed", "/v1/rerank", "/api/embed")) else {"stream": stream}
        reply = post(lazy, path, {**fields, "model": "wrong", **streamed}, VERSION if path == "/v1/messages" else {})
        assert (reply.status, param.encode() in reply.body) == (400, True), reply.body
    assert not is_loaded(lazy, "wrong")


#: Streams of a model that can't be loaded.
FAILING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": SAY},
    "/v1/responses": {"input": SAY},
    "/v1/messages": {"messages": USER, "max_tokens": 5},
    "/completion": {"prompt": SAY},
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": SAY},
}


@pytest.fixture(scope="module")
def failing() -> Iterator[ServerProcess]:
    """Each model fails after a second; a stream has waited for 0.3 s then."""
    names = [f"m{number}" for number in range(len(FAILING))]
    fails = ",".join(f"{name}=the file is cut" for name in names)
    with fake("first", *names, "--keepalive-seconds", "0.3", fake_load_seconds="1", fake_load_fails=fails) as server:
        yield server


@pytest.mark.parametrize("path", FAILING)
def test_an_open_stream_ends_with_its_dialects_error(failing: ServerProcess, path: str) -> None:
    model = f"m{list(FAILING).index(path)}"
    body = {**FAILING[path], "model": model, "stream": True}
    reply = post(failing, path, body, VERSION if path == "/v1/messages" else {})
    assert reply.status == 200
    why = f"The model '{model}' can't be loaded: the file is cut"
    if path in ("/v1/chat/completions", "/v1/completions"):
        text, error = failed_stream(reply.chunks)
        assert why in text
        assert (error["message"], error["code"]) == (why, "model_load_failed")
    elif path == "/v1/responses":
        *_, error, last = framed(reply.chunks)
        assert (error["type"], error["message"]) == ("error", why)
        assert (last["type"], last["response"]["error"]["message"]) == ("response.failed", why)
    elif path == "/v1/messages":
        *pings, last = anthropic_events(reply.chunks)
        assert pings == [{"type": "ping"}] * len(pings)
        assert (last["type"], last["error"]["message"]) == ("error", why)
    elif path == "/completion":
        assert json.loads(reply.chunks[-1][6:])["error"]["message"] == why
    else:
        assert json.loads(reply.chunks[-1]) == {"error": why}
    # While it isn't tried again, it fails at once and with a status.
    again = post(failing, path, body, VERSION if path == "/v1/messages" else {})
    assert again.status == 503
    assert int(again.header("retry-after") or 0) >= 1
    assert why.encode() in again.body.replace(b"\\u0027", b"'")


def test_a_model_that_cannot_be_loaded_fails_its_own_requests_alone(lazy: ServerProcess) -> None:
    reply = post(lazy, "/v1/chat/completions", chat(SAY, model="broken"))
    assert (reply.status, reply.error()["code"]) == (503, "model_load_failed")
    assert reply.error()["message"] == "The model 'broken' can't be loaded: the file is cut"
    assert post(lazy, "/v1/chat/completions", chat(SAY, model="first")).status == 200


def test_a_deadline_holds_while_a_model_loads(lazy: ServerProcess) -> None:
    body, timeout = chat(SAY, model="late"), {"x-queue-timeout": "0.2"}
    reply = post(lazy, "/v1/chat/completions", body, timeout)
    assert (reply.status, reply.error()["code"]) == (504, "queue_timeout")
    wait_for("the load", lambda: is_loaded(lazy, "late"))
    assert metric(lazy.port, "tailrace:model_waiting_requests") == 0


def test_a_client_that_goes_leaves_the_queue_at_once(lazy: ServerProcess) -> None:
    for stream in (True, False):
        with Connection(lazy.port) as connection:
            connection.request("POST", "/v1/chat/completions", chat(SAY, model="gone", stream=stream))
            wait_for("it to wait", lambda: metric(lazy.port, "tailrace:model_waiting_requests") == 1)
            if stream:
                assert connection.read_head().status == 200
        wait_for("it to be gone", lambda: metric(lazy.port, "tailrace:model_waiting_requests") == 0)
        assert "defect" not in lazy.log


def test_beyond_the_queue_a_request_is_refused_before_anything_is_sent() -> None:
    quick = ("--queue-requests", "2", "--keepalive-seconds", "0.1")
    with fake("first", "slow", *quick, fake_load_seconds="slow=600") as server, ExitStack() as waiting:
        for _ in range(2):
            connection = waiting.enter_context(Connection(server.port))
            connection.request("POST", "/v1/chat/completions", chat(SAY, model="slow", stream=True))
            assert connection.read_head().status == 200
        reply = post(server, "/v1/chat/completions", chat(SAY, model="slow", stream=True))
        assert (reply.status, reply.error()["code"]) == (429, "queue_full")
        assert int(reply.header("retry-after") or 0) >= 1
        assert post(server, "/v1/chat/completions", chat(SAY, model="first")).status == 200
        server.process.terminate()
        assert failed_stream(list(connection.chunks()))[1]["code"] == "shutting_down"


# Ollama's keep_alive


def test_keep_alive_says_when_a_model_is_unloaded(lazy: ServerProcess) -> None:
    def generate(**fields: Any) -> dict[str, Any]:
        body: dict[str, Any] = post(lazy, "/api/generate", {"model": "kept", "stream": False, **fields}).json()
        return body

    assert generate(prompt=SAY, keep_alive=0)["response"] == "ab"
    wait_for("the unload after the reply", lambda: not is_loaded(lazy, "kept"))
    assert generate()["done_reason"] == "load"
    assert is_loaded(lazy, "kept")
    assert generate(prompt=SAY, keep_alive=-1)["response"] == "ab"
    wait_for("an idle model's unload", lambda: not is_loaded(lazy, "late") and not is_loaded(lazy, "chat"))
    assert is_loaded(lazy, "kept"), "it is kept for ever"
    assert generate(keep_alive=0)["done_reason"] == "unload"
    wait_for("the unload", lambda: not is_loaded(lazy, "kept"))
    assert generate(keep_alive="0s")["done_reason"] == "unload"
    assert not is_loaded(lazy, "kept"), "what isn't there isn't loaded for it"


def test_a_request_that_only_loads_streams_one_line(lazy: ServerProcess) -> None:
    reply = post(lazy, "/api/chat", {"model": "loaded"})
    *waited, last = ollama_wire.lines(reply)
    assert all(not line["done"] for line in waited)
    assert (last["done"], last["done_reason"]) == (True, "load")


# Models that don't fit together


def test_two_agents_on_two_models_that_do_not_fit_together_have_turns() -> None:
    """Each sends its next request right after a reply. Every request is served, and one model is loaded at a time."""
    sizes = {"models_mb": "400", "fake_weights_mb": "agent=150,helper=150"}
    with fake("agent", "helper", step=0.01, **sizes) as server, ThreadPoolExecutor(2) as agents:

        def work(model: str) -> list[int]:
            return [post(server, "/v1/chat/completions", chat(SAY, model=model)).status for _ in range(25)]

        work_done = [agents.submit(work, model) for model in ("agent", "helper")]
        loaded = []
        while not all(done.done() for done in work_done):
            loaded.append(metric(server.port, "tailrace:model_loaded"))
        assert [done.result() for done in work_done] == [[200] * 25] * 2
        assert max(loaded) == 1
        assert metric(server.port, "tailrace:model_loads_total") <= 6
        assert metric(server.port, "tailrace:model_memory_bytes") <= 400_000_000


def test_a_model_larger_than_the_memory_fails_at_once_with_numbers() -> None:
    with fake("small", "huge", models_mb="300", fake_weights_mb="huge=500") as server:
        reply = post(server, "/v1/chat/completions", chat(SAY, model="huge"))
        assert (reply.status, reply.error()["code"]) == (503, "model_load_failed")
        assert reply.header("retry-after") == "60"
        assert re.search(r"'huge' takes \d{3} MB of memory, and the .* may take 300 MB", reply.error()["message"])
        assert post(server, "/v1/chat/completions", chat(SAY, model="small")).status == 200
