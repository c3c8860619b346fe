"""Two engines behind one HTTP process: the distribution of requests, and the end of one or both engines."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from openai_wire import Connection, ask, chat, chat_stream, failed_stream, metric
from servers import ServerProcess, fake, wait_for

CHAT = "/v1/chat/completions"
#: A reply of six seconds at 20 ms a step.
LONG = "<say>" + "x" * 300 + "</say>"


def ready(server: ServerProcess) -> int:
    found: int = ask(server.port, "GET", "/health").json()["replicas_ready"]
    return found


def both_ready(server: ServerProcess) -> None:
    wait_for("both replicas", lambda: ready(server) == 2)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    """Two replicas with scripted backends."""
    with fake("--replicas", "2", "--threads", "1", step=0.02) as running:
        both_ready(running)
        yield running


def begin(server: ServerProcess, text: str = LONG) -> Connection:
    """A stream of which the first piece of text has come."""
    connection = Connection(server.port)
    connection.request("POST", CHAT, chat(text, stream=True))
    connection.read_head()
    connection.chunk()
    connection.chunk()
    return connection


def cached(server: ServerProcess, messages: list[dict[str, str]]) -> int:
    """How much of the prompt the replica that got it has read before."""
    reply = ask(server.port, "POST", CHAT, {"messages": messages, "max_tokens": 1})
    assert reply.status == 200, reply.body
    found: int = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def test_requests_are_spread_and_a_death_takes_its_own_along(server: ServerProcess) -> None:
    first, second = server.children("engine")
    streams = [begin(server) for _ in range(4)]
    os.kill(second, signal.SIGKILL)
    # While the dead one is missing, the other one goes on and takes what comes.
    assert ask(server.port, "POST", CHAT, chat("<say>ok</say>")).status == 200
    assert ask(server.port, "GET", "/health").status == 200
    lost = 0
    for stream in streams:
        chunks = list(stream.chunks())
        stream.close()
        if b"[DONE]" not in chunks[-1]:
            assert failed_stream(chunks)[1]["code"] == "engine_died"
            lost += 1
    assert lost == 2
    both_ready(server)
    assert first in server.children("engine")
    assert metric(server.port, "tailrace:engine_starts_total") == 3


def test_a_conversation_goes_where_it_has_been(server: ServerProcess) -> None:
    """Its replica isn't the one that an idle server would choose."""
    opening = [{"role": "user", "content": "<say>yes</say>" + "What is known of this? " * 60}]
    with begin(server):
        assert cached(server, opening) == 0, "the idle replica has read nothing"
    wait_for("the stream to end", lambda: metric(server.port, "vllm:num_requests_running") == 0)
    size = len(opening[0]["content"])
    assert cached(server, [*opening, {"role": "assistant", "content": "y"}, {"role": "user", "content": "And?"}]) > size
    assert cached(server, [{"role": "user", "content": "Another matter. " * 60}]) < 20


def test_metrics_are_of_both_and_a_cancel_reaches_the_right_one(server: ServerProcess) -> None:
    with begin(server) as staying:
        leaving = begin(server)
        wait_for("both to run", lambda: metric(server.port, "vllm:num_requests_running") == 2)
        leaving.close()
        wait_for("one to be left", lambda: metric(server.port, "vllm:num_requests_running") == 1)
        staying.chunk()


def test_the_http_process_dies_and_both_engines_come_back(server: ServerProcess) -> None:
    engines = server.children("engine")
    http = server.http
    os.kill(http, signal.SIGKILL)
    wait_for("another HTTP process", lambda: server.child("server") not in (None, http))
    both_ready(server)
    assert server.children("engine") == engines
    with begin(server, "<say>fine</say>") as stream:
        list(stream.chunks())


def test_both_die(server: ServerProcess) -> None:
    streams = [begin(server) for _ in range(2)]
    for engine in server.children("engine"):
        os.kill(engine, signal.SIGKILL)
    for stream in streams:
        assert failed_stream(list(stream.chunks()))[1]["code"] == "engine_died"
        stream.close()
    reply = Connection(server.port)
    reply.request("POST", CHAT, chat("<say>ok</say>", stream=True))
    assert chat_stream(reply.read()).text == ["ok"]
    reply.close()
    both_ready(server)
