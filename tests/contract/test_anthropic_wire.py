"""Anthropic's dialect on the wire."""

from __future__ import annotations

from typing import Any

import pytest

from anthropic_wire import Message, check_ending, check_usage, events, message_stream
from openai_wire import Connection, Reply, ask, chat, metric, say
from servers import ServerProcess, wait_for

WEATHER = {"name": "weather", "input_schema": {"type": "object"}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln", "days": 2}}</tool_call>'
VERSION = {"anthropic-version": "2023-06-01"}


def body(content: object, **fields: object) -> dict[str, object]:
    return {"model": "fake", "max_tokens": 500, "messages": [{"role": "user", "content": content}], **fields}


def post(server: ServerProcess, content: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/messages", body(content, **fields), VERSION)


def stream(server: ServerProcess, content: object, **fields: object) -> Message:
    return message_stream(post(server, content, stream=True, **fields))


def message_object(server: ServerProcess, content: object, **fields: object) -> dict[str, Any]:
    reply = post(server, content, **fields)
    assert reply.status == 200, reply.body
    message: dict[str, Any] = reply.json()
    names = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}
    assert set(message) == names
    assert (message["type"], message["role"]) == ("message", "assistant")
    check_ending(message["content"], message["stop_reason"], message["stop_sequence"])
    check_usage(message["usage"])
    return message


def error(reply: Reply) -> tuple[int, str, str]:
    """Status, type and message, after a look at the shape."""
    told = reply.json()
    assert set(told) == {"type", "error", "request_id"}
    assert told["type"] == "error"
    assert set(told["error"]) == {"type", "message"}
    assert told["error"]["message"]
    assert told["request_id"] == reply.header("request-id")
    return reply.status, told["error"]["type"], told["error"]["message"]


def test_complete_stream_byte_for_byte(scripted: ServerProcess) -> None:
    """Everything but the ids and what was found ready is known, so everything is compared."""
    reply = post(scripted, "<say>ab</say>", stream=True)
    message = message_stream(reply)
    prompt = len("[user]<say>ab</say>\n") + 1
    found = message.usage["cache_read_input_tokens"]
    usage = (
        b'"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,"output_tokens":%d,'
        b'"output_tokens_details":{"thinking_tokens":0}}'
    )
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    assert reply.chunks == [
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"%b","type":"message","role":"assistant",'
        b'"model":"fake","content":[],"stop_reason":null,"stop_sequence":null,'
        % message.started["id"].encode()
        + usage % (prompt, 0, 0)
        + b"}}\n\n",
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n',
        delta + b'"delta":{"type":"text_delta","text":"a"}}\n\n',
        delta + b'"delta":{"type":"text_delta","text":"b"}}\n\n',
        b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        + usage % (prompt - found, found, 3)
        + b"}\n\n",
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ]


def test_complete_message(scripted: ServerProcess) -> None:
    message = message_object(scripted, "<say>ab</say>")
    assert message["content"] == [{"type": "text", "text": "ab"}]
    assert (message["model"], message["stop_reason"], message["stop_sequence"]) == ("fake", "end_turn", None)
    assert message["usage"]["output_tokens"] == 3


@pytest.mark.parametrize(
    ("said", "fields", "blocks", "reason", "stop"),
    [
        ("naïve 日本語 🏳️‍🌈", {}, ["text"], "end_turn", None),
        ("", {}, ["text"], "end_turn", None),
        ("abcdef", {"max_tokens": 3}, ["text"], "max_tokens", None),
        ("one two END three", {"stop_sequences": ["three", "END"]}, ["text"], "stop_sequence", "END"),
        ("one two", {"stop_sequences": ["three"]}, ["text"], "end_turn", None),
        ("<think>hm</think>so", {}, ["thinking", "text"], "end_turn", None),
        ("<think>hm", {}, ["thinking"], "end_turn", None),
        (CALL, {"tools": [WEATHER]}, ["tool_use"], "tool_use", None),
        (
            f"<think>hm</think>so{CALL}{CALL}",
            {"tools": [WEATHER]},
            ["thinking", "text", *["tool_use"] * 2],
            "tool_use",
            None,
        ),
        (
            CALL * 2,
            {"tools": [WEATHER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            ["tool_use"],
            "tool_use",
            None,
        ),
    ],
)
def test_streamed_and_complete_messages_are_equal(
    scripted: ServerProcess, said: str, fields: dict[str, object], blocks: list[str], reason: str, stop: str | None
) -> None:
    one, two = stream(scripted, say(said), **fields), message_object(scripted, say(said), **fields)
    assert [block["type"] for block in one.content] == blocks
    assert (one.stop_reason, one.stop_sequence) == (reason, stop)
    assert (two["stop_reason"], two["stop_sequence"]) == (reason, stop)
    for block in [*one.content, *two["content"]]:
        block.pop("id", None)
    assert one.content == two["content"]
    thinking = [usage["output_tokens_details"]["thinking_tokens"] for usage in (one.usage, two["usage"])]
    assert thinking[0] == thinking[1]
    assert bool(thinking[0]) == ("thinking" in blocks)
    for block in one.content:
        if block["type"] == "tool_use":
            assert block == {"type": "tool_use", "name": "weather", "input": {"city": "Köln", "days": 2}}


def test_reasoning_can_be_left_out(scripted: ServerProcess) -> None:
    fields = {"thinking": {"type": "adaptive", "display": "omitted"}}
    content = [{"type": "thinking", "thinking": "", "signature": "unsigned"}, {"type": "text", "text": "so"}]
    assert stream(scripted, say("<think>hm</think>so"), **fields).content == content
    assert message_object(scripted, say("<think>hm</think>so"), **fields)["content"] == content


def test_inline_reasoning_is_for_other_dialects(inline: ServerProcess) -> None:
    assert [block["type"] for block in stream(inline, say("<think>hm</think>so")).content] == ["thinking", "text"]


def test_no_line_is_too_long(scripted: ServerProcess) -> None:
    held = "[" + "\n" * 55_000 + "x"  # Behind a bracket at the start a call may come.
    assert stream(scripted, say(held), tools=[WEATHER], max_tokens=100_000).text == held


def test_the_prompt_is_rendered(scripted: ServerProcess) -> None:
    """The scripted backend says its prompt where it has no script."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "system", "content": "d"},
        {"role": "user", "content": "e"},
    ]
    assert stream(scripted, "", messages=messages, system="s").text == (
        "[system]s\n[user]a\nb\n[assistant]c\n[system]d\n[user]e\n"
    )
    messages[2:] = [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f<say>g</say>"}]
    assert message_object(scripted, "", messages=messages)["content"][0]["text"] == "g"


#: Every place where a request may mark what is to be cached.
MARKED: dict[str, dict[str, Any]] = {
    "request": {"cache_control": {"type": "ephemeral"}},
    "system": {"system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]},
    "tool": {
        "tools": [{**WEATHER, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "tool_choice": {"type": "none"},
    },
}


def test_all_prompt_tokens_are_input_without_cache_breakpoints(scripted: ServerProcess) -> None:
    text = "x" * 500 + "<say>a</say>"
    usages = [message_object(scripted, text)["usage"] for _ in range(2)]
    prompt = len(f"[user]{text}\n") + 1
    split = [(usage["input_tokens"], usage["cache_read_input_tokens"]) for usage in usages]
    assert split == [(prompt, 0)] * 2


@pytest.mark.parametrize("place", MARKED)
def test_cached_tokens_are_separate_with_cache_breakpoints(scripted: ServerProcess, place: str) -> None:
    text = "x" * 500 + "<say>a</say>"
    message_object(scripted, text, **MARKED[place])
    usage = message_object(scripted, text, **MARKED[place])["usage"]
    assert usage["cache_read_input_tokens"] >= 500
    assert usage["input_tokens"] == 1


def test_a_block_in_a_message_may_mark_it(scripted: ServerProcess) -> None:
    text = {"type": "text", "text": "x" * 500 + "<say>a</say>", "cache_control": {"type": "ephemeral"}}
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [text]}
    for messages in (
        [{"role": "user", "content": [text]}],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result]},
        ],
    ):
        usages = [message_object(scripted, "", messages=messages)["usage"] for _ in range(2)]
        assert usages[1]["input_tokens"] == 1
        assert usages[1]["cache_read_input_tokens"] >= 500


@pytest.mark.parametrize("fields", [{}, MARKED["request"]], ids=["unmarked", "marked"])
def test_both_events_of_a_stream_split_the_input_alike(scripted: ServerProcess, fields: dict[str, Any]) -> None:
    for _ in range(2):
        message = stream(scripted, "x" * 500 + "<say>b</say>", **fields)
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            assert message.started["usage"][name] == message.usage[name], name
        assert message.usage["input_tokens"] > 500


@pytest.mark.parametrize("path", ["/v1/messages?beta=true", "/messages", "//v1/v1/messages/?a=b"])
def test_paths(scripted: ServerProcess, path: str) -> None:
    headers = {"anthropic-version": "9999-99-99", "anthropic-beta": "a,b,c"}
    assert ask(scripted.port, "POST", path, body("<say>a</say>"), headers).json()["content"][0]["text"] == "a"
    assert ask(scripted.port, "POST", path, body("<say>a</say>")).status == 200, "without the headers too"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "server_tool_use"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10}}, "thinking.budget_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"container": "c"}, "container"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_field_that_is_wrong_is_named(scripted: ServerProcess, fields: dict[str, object], names: str) -> None:
    status, kind, message = error(post(scripted, "<say>a</say>", **fields))
    assert (status, kind) == (400, "invalid_request_error")
    assert f"'{names}'" in message or f"`{names}`" in message


def test_other_refusals_have_the_shape_too(scripted: ServerProcess, keyed: ServerProcess) -> None:
    assert error(post(scripted, "a", model="other"))[:2] == (404, "not_found_error")
    assert error(ask(scripted.port, "POST", "/v1/messages", b"{"))[:2] == (400, "invalid_request_error")
    assert error(ask(scripted.port, "GET", "/v1/messages"))[:2] == (405, "invalid_request_error")
    assert error(ask(scripted.port, "POST", "/v1/messages", b" " * 1_000_001))[:2] == (413, "request_too_large")
    assert error(ask(scripted.port, "POST", "/v1/messages/batches", {}, VERSION))[:2] == (404, "not_found_error")
    assert error(ask(scripted.port, "POST", "/v1/messages/batches", {}))[:2] == (404, "not_found_error")
    assert error(ask(keyed.port, "POST", "/v1/messages", body("a")))[:2] == (401, "authentication_error")
    assert error(ask(keyed.port, "GET", "/v1/models", headers=VERSION))[:2] == (401, "authentication_error")
    for headers in ({"x-api-key": "s3cret"}, {"authorization": "Bearer s3cret"}):
        assert ask(keyed.port, "POST", "/v1/messages", body("<say>a</say>"), headers).status == 200


def test_a_too_long_prompt_has_anthropics_error(slow: ServerProcess) -> None:
    for streamed in (False, True):
        status, kind, message = error(post(slow, "x" * 9000, stream=streamed))
        assert (status, kind) == (400, "invalid_request_error")
        assert message.startswith("prompt is too long: ")


def test_silence_brings_pings(slow: ServerProcess) -> None:
    """7000 tokens of a prompt in steps of 64: more than two seconds."""
    message = stream(slow, "a" * 7000 + "<say>b</say>")
    assert message.text == "b"
    assert message.pings >= 4


def test_headers_and_the_start_at_once_while_queued(slow: ServerProcess) -> None:
    with Connection(slow.port) as queued, Connection(slow.port) as busy:
        busy.request("POST", "/v1/chat/completions", chat("<say>" + "x" * 7000 + "</say>", stream=True))
        busy.read_head()
        wait_for("the slot to be taken", lambda: metric(slow.port, "vllm:num_requests_running") == 1)
        queued.request("POST", "/v1/messages", body("<say>ab</say>", stream=True))
        reply = queued.read_head()
        reply.chunks += [queued.chunk() for _ in range(3)]
        assert [event["type"] for event in events(reply.chunks)] == ["message_start", "ping", "ping"]
        busy.close()
        reply.chunks += queued.chunks()
        assert message_stream(reply).text == "ab"


def test_a_failure_after_the_headers_is_an_error_event_and_the_end(scripted: ServerProcess) -> None:
    reply = post(scripted, "<say>ab<nan>c</say>", stream=True)
    assert reply.status == 200
    *told, last = events(reply.chunks)
    assert "".join(event["delta"]["text"] for event in told if event["type"] == "content_block_delta") == "ab"
    assert not any(event["type"] in ("message_delta", "message_stop", "error") for event in told)
    assert last == {"type": "error", "error": last["error"], "request_id": reply.header("request-id")}
    assert last["error"]["type"] == "api_error"
    assert error(post(scripted, "<say>ab<nan>c</say>"))[:2] == (500, "api_error")


def test_counts_are_of_the_prompt_that_would_be_read(scripted: ServerProcess, real: ServerProcess) -> None:
    tool = {**WEATHER, "description": "日本"}
    fields = {"system": "s", "tools": [tool], "tool_choice": {"type": "auto"}}
    for server, model in ((scripted, "fake"), (real, "smollm2-135m")):
        asked = body("hällo " * 20, model=model, **fields)
        counted = ask(server.port, "POST", "/v1/messages/count_tokens?beta=true", asked, VERSION).json()
        assert set(counted) == {"input_tokens"}
        usage = ask(server.port, "POST", "/v1/messages", {**asked, "max_tokens": 1}, VERSION).json()["usage"]
        assert counted["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"] > 40


def test_a_count_that_can_not_be_is_refused(scripted: ServerProcess, keyed: ServerProcess) -> None:
    def count(server: ServerProcess, **fields: object) -> Reply:
        return ask(server.port, "POST", "/v1/messages/count_tokens", body("a", **fields), VERSION)

    assert count(scripted, max_tokens=None).status == 200, "it isn't asked for"
    assert error(count(scripted, model="other"))[:2] == (404, "not_found_error")
    status, kind, message = error(count(scripted, tools=[{"type": "bash_20250124", "name": "bash"}]))
    assert (status, kind) == (400, "invalid_request_error")
    assert "'tools[0]'" in message
    assert error(count(keyed))[:2] == (401, "authentication_error")


def test_models_in_either_form(scripted: ServerProcess) -> None:
    listed = ask(scripted.port, "GET", "/v1/models?limit=1000", headers=VERSION).json()
    (model,) = listed["data"]
    assert listed == {"data": [model], "has_more": False, "first_id": "fake", "last_id": "fake"}
    known = {"type": "model", "id": "fake", "display_name": "fake", "lifecycle": "active"}
    assert model == {**known, "created_at": model["created_at"]}
    assert len(model["created_at"]) == len("2026-01-01T00:00:00Z")
    assert ask(scripted.port, "GET", "/v1/models/fake", headers=VERSION).json() == model
    assert error(ask(scripted.port, "GET", "/v1/models/other", headers=VERSION))[:2] == (404, "not_found_error")
    assert ask(scripted.port, "GET", "/v1/models").json()["object"] == "list"
    assert ask(scripted.port, "GET", "/v1/models/fake").json()["object"] == "model"
