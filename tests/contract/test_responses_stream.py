"""The stream of OpenAI's Responses, event by event."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from openai_wire import Connection, Reply, ask, say
from responses_wire import framed, response_stream
from servers import ServerProcess, fake

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Zürich"}}</tool_call>'


def stream(server: ServerProcess, text: str, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/responses", {"input": text, "stream": True, "store": False, **fields})


def test_complete_stream_byte_for_byte(scripted: ServerProcess) -> None:
    """Everything but ids and times is known, so every event's bytes are compared."""
    reply = stream(scripted, "<say>ab</say>")
    told = response_stream(reply)
    (item,) = told.output
    place = b'"item_id":"%b","output_index":0,"content_index":0,' % item["id"].encode()
    head = b'"id":"%b","type":"message",' % item["id"].encode()

    def event(name: bytes, fields: bytes, number: int) -> bytes:
        return b'event: %b\ndata: {"type":"%b",%b,"sequence_number":%d}\n\n' % (name, name, fields, number)

    empty = b'"part":{"type":"output_text","annotations":[],"logprobs":[],"text":""}'
    part = empty.replace(b'""', b'"ab"')
    whole = b'"item":{%b"status":"completed","role":"assistant","content":[%b]}' % (head, part[7:])
    assert reply.chunks[2:-1] == [
        event(
            b"response.output_item.added",
            b'"output_index":0,"item":{%b"status":"in_progress","role":"assistant","content":[]}' % head,
            2,
        ),
        event(b"response.content_part.added", place + empty, 3),
        event(b"response.output_text.delta", place + b'"delta":"a","logprobs":[]', 4),
        event(b"response.output_text.delta", place + b'"delta":"b","logprobs":[]', 5),
        event(b"response.output_text.done", place + b'"text":"ab","logprobs":[]', 6),
        event(b"response.content_part.done", place + part, 7),
        event(b"response.output_item.done", b'"output_index":0,' + whole, 8),
    ]
    prompt = len("[user]<say>ab</say>\n") + 1
    assert told.response["usage"]["input_tokens"] == prompt
    assert told.response["usage"]["output_tokens"] == 3
    assert told.response["model"] == "fake"


@pytest.mark.parametrize(
    "text", ["naïve", "日本語のテキスト", "🏳️‍🌈👩‍👩‍👧‍👦", "a\u2028b\x85c", "\r\n\n\r", '"\\/\b\t\0']
)
def test_characters_split_over_tokens_stay_whole(scripted: ServerProcess, text: str) -> None:
    assert response_stream(stream(scripted, say(text))).deltas == [text]


def test_a_reply_without_a_word_is_an_empty_message(scripted: ServerProcess) -> None:
    told = response_stream(stream(scripted, "<say></say>"))
    assert [item["type"] for item in told.output] == ["message"]
    assert told.text == ""


def test_the_limit_of_tokens_makes_it_incomplete(scripted: ServerProcess) -> None:
    told = response_stream(stream(scripted, "<say>abcdef</say>", max_output_tokens=3), "incomplete")
    assert told.text == "abc"
    assert told.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told.output[0]["status"] == "incomplete"
    assert told.response["usage"]["output_tokens"] == 3


def test_a_thought_is_an_item_of_its_own(scripted: ServerProcess) -> None:
    told = response_stream(stream(scripted, say("<think>why? 🤔</think>because")))
    thought, message = told.output
    assert thought["type"] == "reasoning"
    assert thought["content"] == [{"type": "reasoning_text", "text": "why? 🤔"}]
    assert thought["summary"] == []
    assert "encrypted_content" not in thought
    assert message["content"][0]["text"] == "because"
    assert told.response["usage"]["output_tokens_details"]["reasoning_tokens"] == len("<think>why? 🤔".encode())


def test_reasoning_is_a_summary_on_request(scripted: ServerProcess) -> None:
    reply = stream(
        scripted,
        say("<think>why</think>because"),
        reasoning={"summary": "auto"},
        include=["reasoning.encrypted_content"],
    )
    thought = response_stream(reply).output[0]
    assert thought["summary"] == [{"type": "summary_text", "text": "why"}]
    assert "content" not in thought
    assert thought["encrypted_content"]


def test_a_thought_that_is_cut_off(scripted: ServerProcess) -> None:
    told = response_stream(stream(scripted, "<say><think>and then</say>", max_output_tokens=10), "incomplete")
    assert [(item["type"], item["status"]) for item in told.output] == [("reasoning", "incomplete")]


def test_calls(scripted: ServerProcess) -> None:
    told = response_stream(stream(scripted, say(f"Look.\n{CALL}\n{CALL}"), tools=[WEATHER]))
    message, first, second = told.output
    assert message["content"][0]["text"] == "Look."
    for call in (first, second):
        assert call["type"] == "function_call"
        assert call["name"] == "weather"
        assert call["status"] == "completed"
        assert json.loads(call["arguments"]) == {"city": "Zürich"}
        assert call["call_id"].startswith("call_")
    assert first["call_id"] != second["call_id"]


def test_one_call_without_parallel_tool_calls(scripted: ServerProcess) -> None:
    told = response_stream(stream(scripted, say(CALL + CALL), tools=[WEATHER], parallel_tool_calls=False))
    assert len(told.output) == 1
    assert told.response["parallel_tool_calls"] is False


def test_a_call_of_a_function_in_a_namespace(scripted: ServerProcess) -> None:
    tools = [{"type": "namespace", "name": "sky", "description": "", "tools": [WEATHER]}]
    told = response_stream(stream(scripted, say(CALL.replace("weather", "sky__weather")), tools=tools))
    (call,) = told.output
    assert (call["namespace"], call["name"]) == ("sky", "weather")


def test_a_call_of_a_custom_tool_has_a_text(scripted: ServerProcess) -> None:
    said = '<tool_call>{"name": "patch", "arguments": {"input": "*** Begin\\n+ä"}}</tool_call>'
    told = response_stream(stream(scripted, say(said), tools=[{"type": "custom", "name": "patch"}]))
    (call,) = told.output
    assert call["type"] == "custom_tool_call"
    assert call["input"] == "*** Begin\n+ä"
    assert "arguments" not in call


def test_log_probabilities(scripted: ServerProcess) -> None:
    include = ["message.output_text.logprobs"]
    told = response_stream(stream(scripted, "<say>ab</say>", include=include, top_logprobs=2))
    entries = told.output[0]["content"][0]["logprobs"]
    assert [entry["token"] for entry in entries] == ["a", "b"]
    assert [entry["bytes"] for entry in entries] == [[97], [98]]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    deltas = [event for event in told.events if event["type"] == "response.output_text.delta"]
    assert [entry for event in deltas for entry in event["logprobs"]] == entries


def test_the_response_repeats_the_requests_fields(scripted: ServerProcess) -> None:
    fields: dict[str, Any] = {
        "instructions": "Be short.",
        "temperature": 0.5,
        "top_p": 0.25,
        "max_output_tokens": 100,
        "metadata": {"a": "b"},
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "truncation": "auto",
        "max_tool_calls": 3,
        "tools": [WEATHER],
        "tool_choice": "none",
        "store": False,
    }
    response = response_stream(stream(scripted, "<say>a</say>", **fields)).response
    tool = {"type": "function", "name": "weather", "description": None, "parameters": {"type": "object"}}
    assert response["tools"] == [{**tool, "strict": False}]
    assert {name: response[name] for name in fields if name != "tools"} == {
        name: value for name, value in fields.items() if name != "tools"
    }


def test_a_silent_stream_gets_valid_events_without_text(slow: ServerProcess) -> None:
    """Its prompt takes a while: 64 tokens a step of 20 ms."""
    reply = stream(slow, "x" * 2500 + "<say>ab</say>")
    told = response_stream(reply)
    alive = [event for event in told.events if event["type"] == "response.in_progress"]
    assert len(alive) > 1
    assert told.text == "ab"


def test_comments_where_that_was_chosen(inline: ServerProcess) -> None:
    """And thoughts stay items of their own, whatever is chosen for other dialects."""
    with Connection(inline.port) as other:
        other.request("POST", "/v1/responses", {"input": f"<say>{'a' * 80}</say>", "stream": True, "store": False})
        other.read_head()
        reply = stream(inline, "<say><think>why</think>ab</say>")
    assert b": keep-alive\n\n" in reply.chunks
    events = framed([chunk for chunk in reply.chunks if not chunk.startswith(b":")])
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["reasoning", "message"]


def test_an_engine_that_dies_is_an_error_and_a_failed_response() -> None:
    with fake(step=0.02) as server, Connection(server.port) as connection:
        connection.request("POST", "/v1/responses", {"input": "<say>" + "a" * 2000 + "</say>", "stream": True})
        connection.read_head()
        chunks = [connection.chunk() for _ in range(8)]
        os.kill(server.engine, signal.SIGKILL)
        chunks += connection.chunks()
        *_, error, failed = framed(chunks)
        assert error["type"] == "error"
        assert error["code"] == error["error"]["code"] == "engine_died"
        assert error["message"] == error["error"]["message"]
        response = failed["response"]
        assert failed["type"] == "response.failed"
        assert response["status"] == "failed"
        assert response["error"] == {"code": "server_error", "message": error["message"]}
        assert response["usage"]["input_tokens"] > 0
        (message,) = response["output"]
        assert message["status"] == "incomplete"
        assert set(message["content"][0]["text"]) == {"a"}
        kept = ask(server.port, "GET", f"/v1/responses/{response['id']}").json()
        assert kept == response
