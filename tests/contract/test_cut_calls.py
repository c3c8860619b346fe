"""Calls that were cut, or that a model has broken, in the conversation that comes back: accepted in every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openai_wire import Reply, ask, say
from servers import ServerProcess, fake

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": WEATHER}
ANTHROPIC_TOOL = {"name": "weather", "input_schema": WEATHER["parameters"]}
AGAIN = {"role": "user", "content": "<say>fine</say>"}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome, the city of seven hills"}}</tool_call>'

#: What clients send as the arguments of such a call.
BROKEN: list[object] = [
    '{"city": "Ro',
    "[]",
    '"x"',
    "5",
    "",
    "  ",
    "null",
    None,
    "not JSON",
    ["x"],
    5,
    {"city": "Bonn"},
]


def fine(reply: Reply) -> None:
    assert reply.status == 200, reply.body
    assert b"fine" in reply.body


@pytest.mark.parametrize("arguments", BROKEN, ids=repr)
def test_any_arguments_are_accepted(scripted: ServerProcess, arguments: object) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}, result, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/chat/completions", {"messages": messages}))
    fine(ask(scripted.port, "POST", "/v1/chat/completions", {"messages": messages, "tools": [TOOL]}))
    assert ask(scripted.port, "POST", "/apply-template", {"messages": messages}).status == 200
    fine(ask(scripted.port, "POST", "/api/chat", {"messages": messages, "stream": False}))
    items = [
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c", "output": "sunny"},
        AGAIN,
    ]
    fine(ask(scripted.port, "POST", "/v1/responses", {"input": items}))
    blocks = [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "weather", "input": arguments}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "sunny"}]},
        AGAIN,
    ]
    fine(ask(scripted.port, "POST", "/v1/messages", {"messages": blocks, "model": "fake", "max_tokens": 9}))


def test_calls_without_arguments_are_accepted(scripted: ServerProcess) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather"}}
    messages = [{"role": "assistant", "tool_calls": [call]}, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/chat/completions", {"messages": messages}))
    fine(ask(scripted.port, "POST", "/api/chat", {"messages": messages, "stream": False}))
    items = [{"type": "function_call", "call_id": "c", "name": "weather"}, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/responses", {"input": items}))


def test_results_without_their_call_are_accepted(scripted: ServerProcess) -> None:
    for result in ({"role": "tool", "content": "sunny"}, {"role": "tool", "tool_call_id": "x", "content": "sunny"}):
        messages = [result, AGAIN]
        fine(ask(scripted.port, "POST", "/v1/chat/completions", {"messages": messages}))
        fine(ask(scripted.port, "POST", "/api/chat", {"messages": messages, "stream": False}))
    items = [{"type": "function_call_output", "call_id": "x", "output": "sunny"}, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/responses", {"input": items}))
    blocks = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "sunny"}]}, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/messages", {"messages": blocks, "model": "fake", "max_tokens": 9}))


#: Strict, as Mistral's: each call has its result and each result its call, and roles alternate.
STRICT = (
    "{% set ns = namespace(open=0, last='') %}{% for m in messages %}"
    "{% if m.role == 'tool' %}{% if ns.open == 0 %}{{ raise_exception('a result without a call') }}{% endif %}"
    "{% set ns.open = ns.open - 1 %}"
    "{% else %}{% if ns.open %}{{ raise_exception('a call without a result') }}{% endif %}"
    "{% if m.role == ns.last %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set ns.last = m.role %}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% set ns.open = ns.open + 1 %}"
    "{% endfor %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
)


def test_a_strict_template_gets_a_cut_call_as_text(tmp_path: Path) -> None:
    """What such a template refuses would stay refused: the conversation only gets longer."""
    path = tmp_path / "strict.jinja"
    path.write_text(STRICT, "utf-8")
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ro'}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "sunny"}
    with fake("--chat-template", str(path)) as server:
        for messages in ([result, AGAIN], [AGAIN, calling, AGAIN], [AGAIN, calling, result, result, AGAIN]):
            fine(ask(server.port, "POST", "/v1/chat/completions", {"messages": messages, "tools": [TOOL]}))
            prompt = ask(server.port, "POST", "/apply-template", {"messages": messages}).json()["prompt"]
            assert ("sunny" in prompt) == (result in messages)
            assert ("weather" in prompt) == (calling in messages)


def test_a_chat_call_that_this_server_has_cut_can_be_sent_back(scripted: ServerProcess) -> None:
    asked = [{"role": "user", "content": say(CALL)}]
    reply = ask(
        scripted.port, "POST", "/v1/chat/completions", {"messages": asked, "tools": [TOOL], "max_tokens": 60}
    ).json()
    (choice,) = reply["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(call["function"]["arguments"])
    result = {"role": "tool", "tool_call_id": call["id"], "content": "the arguments are no JSON"}
    messages = [*asked, choice["message"], result, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/chat/completions", {"messages": messages, "tools": [TOOL]}))


def test_a_stored_response_with_a_cut_call_can_be_continued(scripted: ServerProcess) -> None:
    def post(given: object, **fields: Any) -> Reply:
        return ask(scripted.port, "POST", "/v1/responses", {"input": given, **fields})

    tools = [{"type": "function", **WEATHER}]
    cut = post(say(CALL), tools=tools, max_output_tokens=60).json()
    assert cut["status"] == "incomplete"
    (call,) = [item for item in cut["output"] if item["type"] == "function_call"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(call["arguments"])
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "no"}
    fine(post([output, AGAIN], tools=tools, previous_response_id=cut["id"]))
    fine(post([AGAIN], previous_response_id=cut["id"]))
    fine(post([{"role": "user", "content": "Rome?"}, call, output, AGAIN]))
    fine(post([{"type": "item_reference", "id": call["id"]}, output, AGAIN]))


def test_a_message_whose_call_was_cut_can_be_sent_back(scripted: ServerProcess) -> None:
    asked = {"role": "user", "content": say(CALL)}
    shared: dict[str, Any] = {"model": "fake", "tools": [ANTHROPIC_TOOL]}
    cut = ask(scripted.port, "POST", "/v1/messages", {**shared, "messages": [asked], "max_tokens": 60}).json()
    assert cut["stop_reason"] == "max_tokens"
    (block,) = [block for block in cut["content"] if block["type"] == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": block["id"], "content": "no", "is_error": True}
    messages = [asked, {"role": "assistant", "content": cut["content"]}, {"role": "user", "content": [result]}, AGAIN]
    fine(ask(scripted.port, "POST", "/v1/messages", {**shared, "messages": messages, "max_tokens": 9}))


def test_ollamas_cut_call_can_be_sent_back(scripted: ServerProcess) -> None:
    asked = {"role": "user", "content": say(CALL)}
    body = {"messages": [asked], "tools": [TOOL], "options": {"num_predict": 60}, "stream": False}
    cut = ask(scripted.port, "POST", "/api/chat", body).json()
    assert cut["done_reason"] == "length"
    fine(ask(scripted.port, "POST", "/api/chat", {**body, "messages": [asked, cut["message"], AGAIN]}))
