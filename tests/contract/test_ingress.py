"""The ingress in front of real servers: what clients get through it is what they get from a server itself."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from ingress_process import SECRET, IngressProcess, ingress
from openai_wire import Connection, ask, chat, chat_stream, metric, say
from scripted_replica import ScriptedReplica
from servers import ServerProcess, fake, wait_for
from tailrace.cluster.ingress.orders import AddReplica, ClusterModel, RemoveReplica
from tailrace.cluster_protocol.forwarding import CLIENT_HEADER
from tailrace.cluster_protocol.state import SECRET_HEADER

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": say("Some words.\nAnd more.")}]
ENDLESS = "<say>" + "x" * 7000 + "</say>"

#: What differs between two replies of one server: ids, times and measured durations.
_CHANGING = re.compile(
    rb"(chatcmpl-|cmpl-|resp_|msg_|rs_|req_|call_|fc_|toolu_|conv_)[0-9a-f]+"
    rb'|"(id|created|created_at|completed_at|expires_at|\w*duration|\w*_ms|\w*_per_second)":("[^"]*"|[0-9.e+-]+)'
    rb"|date: [^\r]+"
)


@pytest.fixture(scope="module")
def replica() -> Iterator[ServerProcess]:
    arguments = ("--ctx", "100000", "--parallel", "16", "--max-body-mb", "1")
    with fake(*arguments, cluster_secret=SECRET) as server:
        yield server


@pytest.fixture(scope="module")
def through(replica: ServerProcess) -> Iterator[IngressProcess]:
    with ingress([replica.port], max_body_mb=1) as process:
        yield process


def raw_reply(port: int, request: bytes) -> bytes:
    """All bytes of the response on a connection that the server closes behind it."""
    with Connection(port) as connection:
        connection.send(request)
        return connection.read_to_end()


def masked(data: bytes) -> bytes:
    """The bytes without what differs between two replies; the sizes of chunks depend on that."""
    data = _CHANGING.sub(lambda found: (found[1] or found[2]) + b"*" if found[1] or found[2] else b"date", data)
    return re.sub(rb"\r\n[0-9a-f]+\r\n", b"\r\n#\r\n", re.sub(rb"content-length: \d+", b"content-length: #", data))


def post(path: str, body: bytes | dict[str, Any], version: str = "1.1", more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/{version}\r\nhost: localhost\r\nconnection: close\r\n{more}"
    return f"{head}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


def get(path: str, more: str = "", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\r\n".encode()


CHAT_BODY = {"model": "fake", "messages": MESSAGES}
REQUESTS = {
    "chat": post(CHAT, CHAT_BODY),
    "chat stream": post(CHAT, {**CHAT_BODY, "stream": True, "stream_options": {"include_usage": True}}),
    "chat to HTTP/1.0": post(CHAT, CHAT_BODY, "1.0"),
    "chat stream to HTTP/1.0": post(CHAT, {**CHAT_BODY, "stream": True}, "1.0"),
    "completion": post("/v1/completions", {"prompt": say("abc"), "logprobs": 1}),
    "completion stream": post("/v1/completions", {"prompt": say("abc"), "stream": True}),
    "embeddings": post("/v1/embeddings", {"input": ["a", "b" * 1000] * 20}),
    "responses": post("/v1/responses", {"model": "fake", "input": say("abc"), "store": False}),
    "responses stream": post("/v1/responses", {"model": "fake", "input": say("abc"), "stream": True, "store": False}),
    "messages": post("/v1/messages", {"model": "fake", "max_tokens": 50, "messages": MESSAGES}),
    "messages stream": post("/v1/messages", {"model": "fake", "max_tokens": 50, "messages": MESSAGES, "stream": True}),
    "ollama chat": post("/api/chat", {"model": "fake", "messages": MESSAGES, "stream": False}),
    "ollama chat stream": post("/api/chat", {"model": "fake", "messages": MESSAGES}),
    "ollama generate": post("/api/generate", {"model": "fake", "prompt": say("abc"), "stream": False}),
    "ollama generate stream": post("/api/generate", {"model": "fake", "prompt": say("abc")}),
    "llama-server": post("/completion", {"prompt": say("abc")}),
    "llama-server stream": post("/completion", {"prompt": say("abc"), "stream": True}),
    "rerank": post("/v1/rerank", {"query": "a", "documents": ["a", "b"]}),
    "tokenize": post("/tokenize", {"content": "abc"}),
    "models": get("/v1/models"),
    "a model": get("/v1/models/fake"),
    "Anthropic's models": get("/v1/models", "anthropic-version: 2023-06-01\r\n"),
    "tags": get("/api/tags"),
    "loaded": get("/api/ps"),
    "HEAD": get("/v1/models", method="HEAD"),
    "OPTIONS": get(CHAT, "origin: http://localhost:3000\r\naccess-control-request-method: POST\r\n", "OPTIONS"),
    "a page's request": post(CHAT, CHAT_BODY, more="origin: http://localhost:3000\r\n"),
    "a foreign page's request": post(CHAT, CHAT_BODY, more="origin: https://evil.example\r\n"),
    "no such model": post(CHAT, {**CHAT_BODY, "model": "nothing"}),
    "no such model, Anthropic": post("/v1/messages", {"model": "no", "max_tokens": 5, "messages": MESSAGES}),
    "no such model, Ollama": post("/api/chat", {"model": "no", "messages": MESSAGES}),
    "no such route": get("/v1/nothing"),
    "no such method": get(CHAT),
    "no JSON": post(CHAT, b'{"model"'),
    "an empty body": post(CHAT, b""),
    "a wrong field": post(CHAT, {**CHAT_BODY, "temperature": "hot"}),
    "too long a prompt": post(CHAT, {"messages": [{"role": "user", "content": "x" * 200_000}]}),
    "too large a body": post(CHAT, b" " * 1_100_000),
    "an unknown coding": post(CHAT, CHAT_BODY, more="content-encoding: br\r\n"),
    "the own id": post(CHAT, CHAT_BODY, more="x-request-id: mine-1\r\n"),
    "the page": get("/", "accept: text/html\r\n"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_bytes_are_those_of_the_server(replica: ServerProcess, through: IngressProcess, name: str) -> None:
    raw_reply(replica.port, REQUESTS[name])  # From now on the prompt is in the prefix cache.
    direct, relayed = raw_reply(replica.port, REQUESTS[name]), raw_reply(through.port, REQUESTS[name])
    assert direct
    assert masked(relayed) == masked(direct)


def test_a_connection_goes_on_and_requests_may_come_early(through: IngressProcess) -> None:
    bodies = [{**CHAT_BODY, "stream": True}, CHAT_BODY, {**CHAT_BODY, "stream": True}]
    with Connection(through.port) as connection:
        for body in bodies:
            data = json.dumps(body).encode()
            connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
            connection.send(b"content-length: %d\r\n\r\n%b" % (len(data), data))
        replies = [connection.read() for _ in bodies]
    assert [reply.status for reply in replies] == [200] * 3
    assert [bool(reply.chunks) for reply in replies] == [True, False, True]


def test_a_body_in_chunks_or_compressed_goes_with_a_length(through: IngressProcess) -> None:
    reply = ask(through.port, "POST", CHAT, chat(say("abc"), stream=True), chunked=7)
    assert chat_stream(reply).text == ["abc"]


EMPTY = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
SMUGGLING = {
    "two lengths": b"content-length: 4\r\ncontent-length: 40\r\n\r\nGET /",
    "length and chunks": b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    "chunks, but not last": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a folded header": b"x: a\r\n content-length: 5\r\n\r\nabcde",
    "a space before the colon": b"content-length : 5\r\n\r\nabcde",
    "a null in a value": b"x: a\0b\r\ncontent-length: 0\r\n\r\n",
    "a signed length": b"content-length: +5\r\n\r\nabcde",
    "a bare line feed": b"x: y\ncontent-length: 5\r\n\r\nabcde",
    "a chunk's size with garbage": b"transfer-encoding: chunked\r\n\r\n5x\r\nabcde\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_heads_that_two_servers_may_read_otherwise_go_nowhere(name: str) -> None:
    """They get the server's own refusal, and a replica sees nothing of them."""
    with ScriptedReplica(lambda request, wire: wire.send(EMPTY)) as replica, ingress([replica.port]) as process:
        with Connection(process.port) as connection:
            connection.send(b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\n" + SMUGGLING[name])
            assert connection.read().status == 400
            connection.read_to_end()
        ask(process.port, "GET", "/marker")
        assert [request.target for request in replica.received] == ["/marker"]


def test_no_client_speaks_for_the_cluster(replica: ServerProcess, through: IngressProcess) -> None:
    headers = {SECRET_HEADER: SECRET, CLIENT_HEADER: "203.0.113.9", "connection": f"{SECRET_HEADER}, host"}
    assert ask(through.port, "GET", "/v1/models/me", headers=headers).status == 404
    wait_for("the line", lambda: "/models/me" in replica.log or "models/{id}" in replica.log)
    assert "203.0.113.9" not in replica.log
    for path in ("/cluster/state", "/v1/cluster/state", "/%63luster/state", "//cluster/prompt", "/cluster"):
        reply = ask(through.port, "GET", path, headers=headers)
        assert (reply.status, reply.error()["code"]) == (404, "not_found")


def test_a_client_that_leaves_is_gone_at_the_replica_at_once(through: IngressProcess, replica: ServerProcess) -> None:
    for body in (chat(ENDLESS * 10, stream=True), chat(ENDLESS * 10)):
        with Connection(through.port) as connection:
            connection.request("POST", CHAT, body)
            wait_for("it to run", lambda: metric(replica.port, "vllm:num_requests_running") == 1)
        wait_for("the slot to be free", lambda: metric(replica.port, "vllm:num_requests_running") == 0)


def test_a_slow_client_slows_no_other_and_fills_no_memory(replica: ServerProcess, through: IngressProcess) -> None:
    with Connection(through.port, receive_buffer=4096) as slow:
        slow.request("POST", CHAT, chat(ENDLESS, stream=True, max_tokens=7000))
        slow.read_head()
        for _ in range(3):
            assert chat_stream(ask(through.port, "POST", CHAT, chat(say("abc"), stream=True))).text == ["abc"]
        chunks = list(slow.chunks())
    assert chunks[-1] == b"data: [DONE]\n\n"


def test_files_are_not_uploaded(through: IngressProcess) -> None:
    """A file has no size that could be held, and a cluster's models are those of its configuration."""
    with Connection(through.port) as connection:
        connection.send(
            b"POST /api/blobs/sha256:00 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 90000000000\r\n\r\nx"
        )
        reply = connection.read()
    assert (reply.status, "configuration" in reply.json()["error"]) == (501, True)


def test_health_names_the_reason() -> None:
    with ingress([]) as process:
        reply = ask(process.port, "GET", "/health/ready")
        assert (reply.status, reply.json()["reason"]) == (503, "there is no replica")
        assert reply.header("retry-after")
        assert ask(process.port, "GET", "/health/live").status == 200
        assert ask(process.port, "GET", "/v1/models").status == 503


def test_without_its_parent_it_says_so_and_serves_on(replica: ServerProcess) -> None:
    with ingress([replica.port], start={"linger_seconds": 2.0}) as process:
        assert ask(process.port, "GET", "/health/ready").status == 200
        with Connection(process.port) as connection:
            connection.request("POST", CHAT, chat(say("x" * 3000), stream=True))
            connection.read_head()
            process.abandon()
            wait_for("readiness to fail", lambda: ask(process.port, "GET", "/health/ready").status == 503)
            assert "controller is gone" in ask(process.port, "GET", "/health").json()["reason"]
            assert list(connection.chunks())[-1] == b"data: [DONE]\n\n"
        assert process.process.wait(60) == 0


def test_it_drains_and_a_new_one_takes_over_at_its_port(replica: ServerProcess) -> None:
    with ingress([replica.port], start={"reuse_port": True}) as old, Connection(old.port) as running:
        running.request("POST", CHAT, chat(say("x" * 3000), stream=True))
        running.read_head()
        with ingress([replica.port], start={"reuse_port": True}, port=old.port) as new:
            old.process.send_signal(signal.SIGTERM)
            assert list(running.chunks())[-1] == b"data: [DONE]\n\n"
            assert old.process.wait(60) == 0
            assert ask(new.port, "POST", CHAT, chat(say("abc"))).status == 200


def test_a_removed_replica_finishes_its_replies(replica: ServerProcess) -> None:
    with ingress([replica.port]) as process, Connection(process.port) as running:
        running.request("POST", CHAT, chat(say("x" * 3000), stream=True))
        running.read_head()
        process.order(RemoveReplica("r0"))
        wait_for("it to be gone", lambda: ask(process.port, "GET", "/health").status == 503)
        assert list(running.chunks())[-1] == b"data: [DONE]\n\n"


def test_two_models_by_name(replica: ServerProcess) -> None:
    other = fake("--alias", "other", "--aliases", "gpt-*", cluster_secret=SECRET)
    with other as second:  # noqa: SIM117
        with ingress({"a": replica.port, "b": second.port}, start={"replica_header": True}) as process:
            models = ask(process.port, "GET", "/v1/models").json()
            assert [model["id"] for model in models["data"]] == ["fake", "other"]
            assert [model["name"] for model in models["models"]] == ["fake", "other"]
            tags = ask(process.port, "GET", "/api/tags").json()["models"]
            assert [model["name"] for model in tags] == ["fake:latest", "other:latest"]
            for name, expected in ((None, "a"), ("fake", "a"), ("OTHER:latest", "b"), ("gpt-4", "b")):
                body = chat(say("abc"), **({} if name is None else {"model": name}))
                assert ask(process.port, "POST", CHAT, body).header("x-tailrace-replica") == expected
            assert ask(process.port, "GET", "/v1/models/other").header("x-tailrace-replica") == "b"
            wrong = ask(process.port, "POST", "/v1/messages", {"model": "none", "max_tokens": 1, "messages": MESSAGES})
            assert (wrong.status, wrong.json()["type"]) == (404, "error")
            assert "'fake', 'other'" in wrong.json()["error"]["message"]


def test_a_request_wakes_a_sleeping_model_and_waits_with_signs_of_life(replica: ServerProcess) -> None:
    with ingress([], keepalive_seconds=0.2) as process:
        process.serve(ClusterModel(name="fake", wakes=True))
        wait_for("it to be ready", lambda: ask(process.port, "GET", "/health").status == 200)
        with Connection(process.port) as stream, Connection(process.port) as whole:
            stream.request("POST", CHAT, chat(say("abc"), stream=True))
            whole.request("POST", CHAT, chat(say("def")))
            reply = stream.read_head()
            assert b'"content":""' in stream.chunk()
            process.wait_wanted("fake", 2)
            process.order(AddReplica("r0", "127.0.0.1", replica.port))
            reply.chunks = list(stream.chunks())
            assert b"".join(reply.chunks).count(b'"delta":{"content":"a"}') == 1
            assert reply.chunks[-1] == b"data: [DONE]\n\n"
            assert whole.read().json()["choices"][0]["message"]["content"] == "def"


def test_a_wait_has_an_end_in_the_dialects_form() -> None:
    with ingress([], start={"wait_seconds": 0.5}, keepalive_seconds=0.2) as process:
        process.serve(ClusterModel(name="fake", wakes=True))
        whole = ask(process.port, "POST", "/v1/messages", {"model": "fake", "max_tokens": 1, "messages": MESSAGES})
        assert (whole.status, whole.json()["error"]["type"]) == (503, "overloaded_error")
        stream = ask(process.port, "POST", "/api/chat", {"model": "fake", "messages": MESSAGES})
        lines = [json.loads(line) for line in stream.body.splitlines()]
        assert lines[0]["message"] == {"role": "assistant", "content": ""}
        assert "no replica" in lines[-1]["error"].lower()


def test_keys_are_checked_before_a_model_is_woken() -> None:
    with ingress([], api_key="k") as process:
        process.serve(ClusterModel(name="fake", wakes=True))
        reply = ask(process.port, "POST", CHAT, chat("x"))
        assert (reply.status, reply.header("www-authenticate")) == (401, "Bearer")
