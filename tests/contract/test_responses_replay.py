"""Responses whose events are read again, or by a client that comes later."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, metric, say
from responses_requests import post
from responses_wire import response_events, response_stream
from servers import ServerProcess, wait_for

SCRIPTS = {
    "text": "<say>Grüße 🌍</say>",
    "thought and call": say(
        '<think>hm</think><tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'
    ),
    "custom call": say('<tool_call>{"name": "patch", "arguments": {"input": "+x"}}</tool_call>'),
    "nothing": "<say></say>",
}
TOOLS = [
    {"type": "function", "name": "weather", "parameters": {"type": "object"}},
    {"type": "custom", "name": "patch"},
]


def stream_of(server: ServerProcess, identity: str, query: str = "") -> Reply:
    return ask(server.port, "GET", f"/v1/responses/{identity}?stream=true{query}")


def _is_event(chunk: bytes) -> bool:
    """Whether a chunk is an event: a server that is slow sends comments as signs of life."""
    return not chunk.startswith(b":")


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("summary", [None, "auto"])
def test_a_stored_response_is_streamed_as_it_was(scripted: ServerProcess, script: str, summary: str | None) -> None:
    response = post(scripted, SCRIPTS[script], tools=TOOLS, reasoning={"summary": summary}).json()
    stream = response_stream(stream_of(scripted, response["id"]))
    assert stream.response == response
    assert stream_of(scripted, response["id"]).body == stream_of(scripted, response["id"]).body


def test_a_stored_response_that_was_cut_or_has_logprobs(scripted: ServerProcess) -> None:
    cut = post(scripted, "<say>abcdef</say>", max_output_tokens=3, top_logprobs=2).json()
    stream = response_stream(stream_of(scripted, cut["id"]), "incomplete")
    assert stream.response == cut


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_response_in_the_background_may_be_streamed(scripted: ServerProcess, script: str) -> None:
    reply = post(scripted, SCRIPTS[script], tools=TOOLS, background=True, stream=True)
    stream = response_stream(reply)
    assert stream.response["background"] is True
    identity = stream.response["id"]
    assert ask(scripted.port, "GET", f"/v1/responses/{identity}").json() == stream.response
    assert stream_of(scripted, identity).body == reply.body, "the same events, to the byte"
    whole = response_events(reply)
    for after in range(0, len(whole), 3):
        rest = stream_of(scripted, identity, f"&starting_after={after}")
        assert b"".join(rest.chunks) == b"".join(reply.chunks[after + 1 :])


def test_a_disconnect_does_not_end_a_recording(slow: ServerProcess) -> None:
    body = {"input": "<say>" + "a" * 60 + "</say>", "background": True, "stream": True}
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/responses", body)
        connection.read_head()
        seen = list(islice(filter(_is_event, connection.chunks()), 6))
    identity = json.loads(seen[0].split(b"data: ")[1])["response"]["id"]
    assert metric(slow.port, "vllm:num_requests_running") == 1
    rest = list(filter(_is_event, stream_of(slow, identity, "&starting_after=5").chunks))
    assert numbers([json.loads(chunk.split(b"data: ")[1]) for chunk in rest])[0] == 6
    events = [json.loads(chunk.split(b"data: ")[1]) for chunk in [*seen, *rest]]
    assert numbers(events) == list(range(len(events)))
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == "a" * 60
    assert events[-1]["type"] == "response.completed"


def test_a_queued_background_response_sends_keep_alives(slow: ServerProcess) -> None:
    with Connection(slow.port) as first, Connection(slow.port) as second:
        first.request("POST", "/v1/responses", {"input": "<say>" + "a" * 4000 + "</say>", "background": True})
        running = first.read().json()["id"]
        wait_for("it to run", lambda: metric(slow.port, "vllm:num_requests_running") == 1)
        second.request("POST", "/v1/responses", {"input": "<say>b</say>", "background": True, "stream": True})
        second.read_head()
        chunks = [second.chunk() for _ in range(3)]
        assert chunks[-1] == b": keep-alive\n\n"
        assert ask(slow.port, "POST", f"/v1/responses/{running}/cancel").json()["status"] == "cancelled"
        events = [chunk for chunk in second.chunks() if chunk.startswith(b"event: ")]
        assert b'"response.completed"' in events[-1]
    assert stream_of(slow, running).chunks[-1].startswith(b"event: response."), "it has begun and has no end"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("starting_after=1", "starting_after"),
        ("stream=true&starting_after=-1", "starting_after"),
        ("stream=x", "stream"),
    ],
)
def test_wrong_queries_are_named(scripted: ServerProcess, query: str, param: str) -> None:
    identity = post(scripted, "<say>a</say>").json()["id"]
    reply = ask(scripted.port, "GET", f"/v1/responses/{identity}?{query}")
    assert (reply.status, reply.error()["param"]) == (400, param)
    assert ask(scripted.port, "GET", f"/v1/responses/{identity}?stream=false&include_obfuscation=true").status == 200
    assert stream_of(scripted, identity, "&starting_after=99999").body == b""
