"""The private routes of a cluster's replica: its state, and a request's prompts."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from openai_wire import Connection, ask, chat, metric
from servers import PATIENCE, ServerProcess, fake
from tailrace.cluster.replica_view import ReplicaView
from tailrace.cluster_protocol.prefix_chain import BLOCK_TOKENS, unpack_hashes
from tailrace.cluster_protocol.state import SECRET_HEADER, PromptChains, StateHeartbeat, StateMessage

SECRET = "a-secret-without-spaces"
WITH_SECRET = {SECRET_HEADER: SECRET}
STATE = "/cluster/state"
PROMPT = "/cluster/prompt?path="
TEXT = "Tell me of the river, and of the mill beside it. " * 8
#: A request of each dialect that generates, with its path.
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat(TEXT),
    "/v1/completions": {"model": "fake", "prompt": TEXT},
    "/v1/responses": {"model": "fake", "input": TEXT, "background": True},
    "/v1/messages": {"model": "fake", "max_tokens": 9, "messages": [{"role": "user", "content": TEXT}]},
    "/api/chat": {"model": "fake", "messages": [{"role": "user", "content": TEXT}]},
    "/api/generate": {"model": "fake", "prompt": TEXT},
    "/completion": {"prompt": TEXT, "stream": True},
}


class Channel:
    """A subscriber."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.raw = b""
        self.view = ReplicaView("r", "127.0.0.1", 1)

    def next(self) -> StateMessage | None:
        """The next message; None at the end of the stream."""
        line = self._response.readline()
        self.raw += line
        if not line:
            return None
        message: StateMessage = msgspec.json.decode(line, type=StateMessage)
        self.view.apply(message)
        return message


@contextmanager
def channel(server: ServerProcess) -> Iterator[Channel]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", STATE, headers=WITH_SECRET)
    response = connection.getresponse()
    assert response.status == 200
    try:
        yield Channel(response)
    finally:
        connection.close()


@pytest.fixture(scope="module")
def replica() -> Iterator[ServerProcess]:
    with fake("--ctx", "4096", cluster_secret=SECRET) as server:
        yield server


def probe(server: ServerProcess, path: str, body: dict[str, Any]) -> PromptChains:
    reply = ask(server.port, "POST", PROMPT + path, body, WITH_SECRET)
    assert reply.status == 200, reply.body
    return msgspec.json.decode(reply.body, type=PromptChains)


def test_without_the_setting_there_are_no_such_routes(scripted: ServerProcess) -> None:
    assert ask(scripted.port, "GET", STATE, headers=WITH_SECRET).status == 404
    assert ask(scripted.port, "POST", PROMPT + "/v1/completions", {}, WITH_SECRET).status == 404


@pytest.mark.parametrize("headers", [{}, {SECRET_HEADER: SECRET + "x"}, {SECRET_HEADER: ""}])
@pytest.mark.parametrize("path", [STATE, "/v1/cluster/state", "//cluster//state", "/%63luster/state"])
def test_without_the_secret_they_answer_401(replica: ServerProcess, path: str, headers: dict[str, str]) -> None:
    assert ask(replica.port, "GET", path, headers=headers).status == 401
    assert ask(replica.port, "POST", PROMPT + "/v1/completions", {}, headers).status == 401


def test_the_document_does_not_show_them(replica: ServerProcess) -> None:
    assert "/cluster" not in json.dumps(ask(replica.port, "GET", "/openapi.json").json())


def test_the_state_comes_at_once_and_heartbeats_follow(replica: ServerProcess) -> None:
    with channel(replica) as found:
        found.next()
        load = found.view.load_of("fake")
        assert load is not None
        assert found.view.takes_requests
        assert (load.slots, load.engines) == (8, 1)
        while not isinstance(found.next(), StateHeartbeat):
            pass


@pytest.mark.parametrize("path", REQUESTS)
def test_each_dialect_s_prompt_is_held_after_its_request(replica: ServerProcess, path: str) -> None:
    body = REQUESTS[path]
    chains = probe(replica, path, body)
    (prompt,) = chains.prompts
    blocks = unpack_hashes(prompt.hashes)
    assert chains.model == "fake"
    assert len(blocks) == prompt.tokens // BLOCK_TOKENS > 0
    assert ask(replica.port, "POST", path, {**body, "background": False}).status == 200
    with channel(replica) as one, channel(replica) as other:
        for subscriber in (one, other):
            while not set(blocks) <= subscriber.view.held.keys():
                assert subscriber.next() is not None
        assert TEXT[:20].encode() not in one.raw


def test_a_probe_computes_nothing_and_stores_nothing(replica: ServerProcess) -> None:
    before = metric(replica.port, "vllm:prompt_tokens_total")
    chains = probe(replica, "/v1/chat/completions", chat("something else " * 30, n=3))
    assert chains.choices == 3
    assert metric(replica.port, "vllm:prompt_tokens_total") == before
    assert metric(replica.port, "vllm:num_requests_waiting") == 0
    with channel(replica) as found:
        found.next()
        assert not set(unpack_hashes(chains.prompts[0].hashes)) & found.view.held.keys()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "fake", "input": "x"}),
        ("/api/generate", {"model": "fake"}),
        ("/v1/models", {}),
        ("/nothing", {}),
        ("", {}),
    ],
)
def test_what_begins_no_reply_has_no_prompt(replica: ServerProcess, path: str, body: dict[str, Any]) -> None:
    assert ask(replica.port, "POST", PROMPT + path, body, WITH_SECRET).status == 404


def test_a_probe_of_a_wrong_request_is_that_request_s_error(replica: ServerProcess) -> None:
    wrong = chat("x", temperature="hot")
    reply = ask(replica.port, "POST", PROMPT + "/v1/chat/completions", wrong, WITH_SECRET)
    direct = ask(replica.port, "POST", "/v1/chat/completions", wrong)
    assert (reply.status, reply.error()["param"]) == (direct.status, direct.error()["param"])


def test_the_state_needs_no_key_but_a_prompt_needs_the_client_s() -> None:
    with fake(cluster_secret=SECRET, api_key="s3cret") as server:
        body, path = REQUESTS["/v1/completions"], PROMPT + "/v1/completions"
        with channel(server) as found:
            assert found.next() is not None
        assert ask(server.port, "GET", STATE).status == 401
        assert ask(server.port, "POST", path, body, WITH_SECRET).status == 401
        assert ask(server.port, "POST", path, body, WITH_SECRET | {"authorization": "Bearer s3cret"}).status == 200


def test_a_server_that_stops_drains_and_ends_the_stream_last() -> None:
    with fake("--drain-seconds", "30", step=0.01, cluster_secret=SECRET) as server:
        with channel(server) as found, Connection(server.port) as running:
            running.request("POST", "/v1/chat/completions", chat("<say>" + "x" * 100 + "</say>", stream=True))
            running.read_head()
            found.next()
            assert found.view.takes_requests
            server.process.send_signal(signal.SIGTERM)
            while found.view.phase != "draining":
                assert found.next() is not None
            assert b"[DONE]" in b"".join(running.chunks())
            while found.next() is not None:
                pass
        assert server.process.wait(PATIENCE) == 0
