"""What a client sees while it waits, and what happens when it stops waiting."""

from __future__ import annotations

import json
import time

import pytest

from openai_wire import Connection, ask, chat, chat_stream, failed_stream, metric, say, text_stream
from servers import ServerProcess, fake, wait_for

#: A reply that the slow servers write for ten minutes.
ENDLESS = "<say>" + "x" * 7000 + "</say>"
WEATHER = {"type": "function", "function": {"name": "weather"}}
ROLE = b'"delta":{"role":"assistant","content":""}'
KEEP_ALIVE = b'"delta":{"content":""},"finish_reason":null}]}\n\n'


def running(server: ServerProcess) -> float:
    return metric(server.port, "vllm:num_requests_running")


def waiting(server: ServerProcess) -> float:
    return metric(server.port, "vllm:num_requests_waiting")


def occupy(server: ServerProcess) -> Connection:
    """A client whose reply holds the only slot."""
    connection = Connection(server.port)
    connection.request("POST", "/v1/chat/completions", chat(ENDLESS, stream=True))
    connection.read_head()
    wait_for("the slot to be taken", lambda: running(server) == 1)
    return connection


def test_headers_and_role_at_once_while_queued_then_keep_alives_then_the_reply(slow: ServerProcess) -> None:
    with Connection(slow.port) as queued:
        with occupy(slow):
            begun = time.monotonic()
            queued.request("POST", "/v1/chat/completions", chat("<say>ab</say>", stream=True))
            reply = queued.read_head()
            reply.chunks.append(queued.chunk())
            assert time.monotonic() - begun < 1.0
            assert ROLE in reply.chunks[0]
            reply.chunks += [queued.chunk(), queued.chunk()]
            assert all(chunk.endswith(KEEP_ALIVE) for chunk in reply.chunks[1:])
        reply.chunks += queued.chunks()
        assert chat_stream(reply).text == ["ab"]


def test_the_same_for_completions(slow: ServerProcess) -> None:
    with Connection(slow.port) as queued:
        with occupy(slow):
            queued.request("POST", "/v1/completions", {"prompt": "<say>ab</say>", "stream": True})
            reply = queued.read_head()
            reply.chunks += [queued.chunk(), queued.chunk()]
            assert all(b'"text":"","finish_reason":null' in chunk for chunk in reply.chunks)
        reply.chunks += queued.chunks()
        assert text_stream(reply).text == ["ab"]


def test_a_request_is_checked_before_the_headers_even_while_queued(slow: ServerProcess) -> None:
    with occupy(slow):
        reply = ask(slow.port, "POST", "/v1/chat/completions", chat("x" * 9000, stream=True))
        assert reply.status == 400
        assert reply.error()["code"] == "context_length_exceeded"


def test_a_long_prompt_brings_keep_alives(slow: ServerProcess) -> None:
    """8000 tokens that no other test has sent, in steps of 64: two and a half seconds."""
    reply = ask(slow.port, "POST", "/v1/chat/completions", chat("waiting " * 1000 + "<say>b</say>", stream=True))
    assert chat_stream(reply).text == ["b"]
    assert sum(chunk.endswith(KEEP_ALIVE) for chunk in reply.chunks) >= 3


def test_text_that_is_held_back_is_silence_too(slow: ServerProcess) -> None:
    """What may be a stop string is held back: without a sign of life clients give up."""
    body = chat(say("x" * 80 + "."), stream=True, stop=["x" * 80 + "!"])
    reply = ask(slow.port, "POST", "/v1/chat/completions", body)
    assert chat_stream(reply).text == ["x" * 80 + "."]
    assert sum(chunk.endswith(KEEP_ALIVE) for chunk in reply.chunks) >= 3


def test_a_keep_alive_belongs_to_a_choice_that_still_runs(slow: ServerProcess) -> None:
    """With one slot the second reply begins when the first is over."""
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    reply = ask(slow.port, "POST", "/v1/chat/completions", chat(say(call), stream=True, tools=[WEATHER], n=2))
    chat_stream(reply, choices=2)
    assert any(b'"index":1,' + KEEP_ALIVE in chunk for chunk in reply.chunks)
    reply = ask(
        slow.port,
        "POST",
        "/v1/completions",
        {"prompt": say("x" * 40), "stop": "x" * 50, "n": 2, "max_tokens": 60, "stream": True},
    )
    assert text_stream(reply, choices=2).text == ["x" * 40] * 2


def test_no_keep_alive_while_text_flows(slow: ServerProcess) -> None:
    """On a loaded machine an engine may be silent for as long as the interval: one reply of three is enough."""
    body = chat("<say>" + "x" * 50 + "</say>", stream=True)
    replies = (ask(slow.port, "POST", "/v1/chat/completions", body) for _ in range(3))
    assert any(len(reply.chunks) == 1 + 50 + 1 + 1 and KEEP_ALIVE not in reply.body for reply in replies)


def test_keep_alives_as_comments(inline: ServerProcess) -> None:
    with Connection(inline.port) as queued:
        with occupy(inline):
            queued.request("POST", "/v1/chat/completions", chat("<say>ab</say>", stream=True))
            reply = queued.read_head()
            reply.chunks.append(queued.chunk())
            assert queued.chunk() == b": keep-alive\n\n"
        reply.chunks += [chunk for chunk in queued.chunks() if chunk != b": keep-alive\n\n"]
        assert chat_stream(reply).text == ["ab"]


def test_reasoning_inline_with_its_tags_in_chunks_of_their_own(inline: ServerProcess) -> None:
    reply = ask(inline.port, "POST", "/v1/chat/completions", chat("<say><think>why</think>so</say>", stream=True))
    stream = chat_stream(reply)
    assert (stream.text, stream.reasoning) == (["<think>why</think>so"], [""])
    deltas = [json.loads(chunk[6:])["choices"][0]["delta"] for chunk in reply.chunks[:-1]]
    assert {"content": "<think>"} in deltas
    assert {"content": "</think>"} in deltas


# Going away


def test_a_client_that_goes_away_frees_its_slot_for_the_next(slow: ServerProcess) -> None:
    for leave in (Connection.close, Connection.reset):
        connection = occupy(slow)
        leave(connection)
        reply = ask(slow.port, "POST", "/v1/chat/completions", chat("<say>next</say>", stream=True))
        assert chat_stream(reply).text == ["next"]
        wait_for("the slot to be free", lambda: running(slow) == 0)


def test_going_away_cancels_within_one_engine_step() -> None:
    """Each step lasts half a second; tokens are counted until the engine reports that nothing runs."""
    with fake("--parallel", "1", step=0.5) as server:
        with Connection(server.port) as connection:
            connection.request("POST", "/v1/chat/completions", chat("<say>" + "x" * 300 + "</say>", stream=True))
            connection.read_head()
            told = [connection.chunk() for _ in range(4)]
        wait_for("the cancel", lambda: running(server) == 0)
        # All that was told but the role, and the one that was being computed when the client left.
        assert metric(server.port, "tailrace:engine_decode_tokens_total") <= len(told) - 1 + 1


@pytest.mark.parametrize("fields", [{"n": 3}, {"stream": False}, {"stream": False, "n": 2}])
def test_going_away_cancels_every_form_of_request(slow: ServerProcess, fields: dict[str, object]) -> None:
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/chat/completions", chat(ENDLESS, **{"stream": True, **fields}))
        wait_for("the slot to be taken", lambda: running(slow) == 1)
    wait_for("the slot to be free", lambda: running(slow) == 0)
    assert waiting(slow) == 0


def test_going_away_while_queued_leaves_the_queue(slow: ServerProcess) -> None:
    with occupy(slow):
        with Connection(slow.port) as queued:
            queued.request("POST", "/v1/chat/completions", chat(ENDLESS))
            wait_for("the queue to hold it", lambda: waiting(slow) == 1)
        wait_for("the queue to be empty", lambda: waiting(slow) == 0)
        assert running(slow) == 1


def test_going_away_while_the_prompt_is_read(slow: ServerProcess) -> None:
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/chat/completions", chat("leaving " * 1000, stream=True))
        connection.read_head()
        wait_for("the slot to be taken", lambda: running(slow) == 1)
    wait_for("the slot to be free", lambda: running(slow) == 0)


def test_going_away_before_the_body_is_complete_costs_nothing(slow: ServerProcess) -> None:
    before = metric(slow.port, "tailrace:http_requests_total")
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/chat/completions", b'{"messages": [', {"content-length": "1000"})
    reply = ask(slow.port, "POST", "/v1/chat/completions", chat("<say>next</say>"))
    assert reply.json()["choices"][0]["message"]["content"] == "next"
    # The scrape above, that reply and the scrape below, which is counted after it was rendered.
    assert metric(slow.port, "tailrace:http_requests_total") == before + 2
    assert "defect" not in slow.log


def test_the_models_are_listed_while_a_prompt_is_read(real: ServerProcess) -> None:
    with Connection(real.port) as connection:
        connection.request("POST", "/v1/completions", {"prompt": "word " * 600, "stream": True, "max_tokens": 2})
        begun = time.monotonic()
        answers = [ask(real.port, "GET", "/v1/models").status for _ in range(20)]
        assert time.monotonic() - begun < 20 * 1.0
        assert answers == [200] * 20
        assert text_stream(connection.read()).finish == ["length"]


def test_nan_logits_end_only_their_reply(slow: ServerProcess, scripted: ServerProcess) -> None:
    with Connection(scripted.port) as sound, Connection(scripted.port) as broken:
        sound.request("POST", "/v1/chat/completions", chat("<say>" + "x" * 5000 + "</say>", stream=True))
        broken.request("POST", "/v1/chat/completions", chat("<say>ab<nan></say>", stream=True))
        broken.read_head()
        text, error = failed_stream(list(broken.chunks()))
        assert text.startswith("ab")
        assert (error["code"], error["type"]) == ("generation_failed", "server_error")
        assert chat_stream(sound.read()).finish == ["stop"]
    reply = ask(slow.port, "POST", "/v1/completions", {"prompt": "<say><nan></say>", "n": 3})
    assert reply.status == 500
    assert reply.error()["code"] == "generation_failed"
    wait_for("the other choices to be dropped", lambda: running(slow) == waiting(slow) == 0)


def test_a_reader_that_is_far_behind_is_cut_off() -> None:
    """The reply is larger than all buffers between; the client reads nothing until the server gives up."""
    with fake("--ctx", "300000", "--parallel", "1", slow_reader_kb="16") as server:
        with Connection(server.port, receive_buffer=4096) as connection:
            connection.request("POST", "/v1/chat/completions", chat("<say>" + "y" * 140_000 + "</say>", stream=True))
            wait_for("the reply to begin", lambda: metric(server.port, "tailrace:engine_decode_tokens_total") > 0)
            wait_for("the reader to be cut off", lambda: running(server) == 0)
            assert metric(server.port, "tailrace:engine_decode_tokens_total") < 140_000
            reply = connection.read_head()
            assert reply.status == 200
            text, error = failed_stream(list(connection.chunks())[1:])
        assert text.startswith("yyyy")
        assert error["code"] == "slow_reader"
        assert error["type"] == "server_error"
        next_reply = ask(server.port, "POST", "/v1/chat/completions", chat("<say>next</say>", stream=True))
        assert chat_stream(next_reply).text == ["next"]
