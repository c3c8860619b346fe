"""The forms in which chat clients offer tools and choose among them: older, newer, and other servers'."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openai_wire import Reply, ask, payloads, say
from servers import ServerProcess

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "parameters": SCHEMA}
ROME = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
PATCH = {"type": "custom", "custom": {"name": "patch", "description": "changes files"}}
INPUT = '*** Begin\n- "a"\n+ é'


def tools(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in names]


def post(server: ServerProcess, said: str, **fields: Any) -> Reply:
    return ask(server.port, "POST", CHAT, {"messages": [{"role": "user", "content": say(said)}], **fields})


def choice_of(reply: Reply) -> dict[str, Any]:
    assert reply.status == 200, reply.body
    (choice,) = reply.json()["choices"]
    assert isinstance(choice, dict)
    return choice


def deltas(reply: Reply) -> tuple[list[dict[str, Any]], str]:
    """The stream's deltas behind the first, which has the role, and its finish reason."""
    *chunks, done = payloads(reply.chunks)
    assert done == b"[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["delta"] == {}
    return [choice["delta"] for choice in choices[1:-1]], choices[-1]["finish_reason"]


# Choices


@pytest.mark.parametrize("wanted", ["required", "any", {"type": "any"}])
def test_words_for_a_call_that_has_to_be(scripted: ServerProcess, wanted: object) -> None:
    """The scripted text isn't a call: where one has to be, a grammar doesn't let it through."""
    choice = choice_of(post(scripted, "no", tools=tools("weather"), tool_choice=wanted, max_tokens=60))
    assert choice["message"]["content"] == ""
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    called = ask(
        scripted.port,
        "POST",
        "/v1/responses",
        {"input": say("no"), "tools": [{"type": "function", **WEATHER}], "tool_choice": "any", "max_output_tokens": 60},
    ).json()
    assert [item["type"] for item in called["output"]] == ["function_call"]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_the_only_ones_offered(scripted: ServerProcess, nested: bool, mode: str) -> None:
    listed = [{"type": "function", "function": {"name": "b"}} if nested else {"type": "function", "name": "b"}]
    inner: dict[str, Any] = {"mode": mode, "tools": listed}
    wanted = {"type": "allowed_tools", **({"allowed_tools": inner} if nested else inner)}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools("a", "b"), "max_tokens": 50}
    reply = ask(scripted.port, "POST", CHAT, {**body, "tool_choice": wanted})
    choice = choice_of(reply)
    if mode == "required":
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "b"
    else:
        assert (
            '"name": "b"'
            in choice_of(ask(scripted.port, "POST", CHAT, {**body, "tool_choice": wanted, "max_tokens": 2000}))[
                "message"
            ]["content"]
        )
        assert "tool_calls" not in choice["message"]


def test_allowed_tools_in_the_chat_form_work_in_responses(scripted: ServerProcess) -> None:
    listed = {"mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    body = {"input": "x", "tools": [{"type": "function", **WEATHER}], "max_output_tokens": 60}
    choice = {"type": "allowed_tools", "allowed_tools": listed}
    reply = ask(scripted.port, "POST", "/v1/responses", {**body, "tool_choice": choice})
    assert [item["type"] for item in reply.json()["output"]] == ["function_call"]


def test_a_named_tool_in_every_form(scripted: ServerProcess) -> None:
    for wanted in (
        {"type": "function", "function": {"name": "b"}},
        {"type": "function", "name": "b"},
        {"type": "tool", "name": "b"},
    ):
        choice = choice_of(post(scripted, "no", tools=tools("a", "b"), tool_choice=wanted, max_tokens=60))
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["b"]


def test_a_function_with_fields_beside_its_type(scripted: ServerProcess) -> None:
    choice = choice_of(post(scripted, ROME, tools=[{"type": "function", **WEATHER}]))
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}


def test_a_schema_needs_no_name(scripted: ServerProcess) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {"const": 1}}}}}
    assert json.loads(choice_of(post(scripted, '{"a": 1}', response_format=form))["message"]["content"]) == {"a": 1}


# Custom tools

CUSTOM = (
    "<tool_call>\n"
    + json.dumps({"name": "patch", "arguments": {"input": INPUT}}, ensure_ascii=False)
    + "\n</tool_call>"
)


def test_a_custom_tool_is_called_with_a_text(scripted: ServerProcess) -> None:
    offered = [PATCH, *tools("weather")]
    choice = choice_of(post(scripted, CUSTOM + ROME, tools=offered))
    assert choice["finish_reason"] == "tool_calls"
    first, second = choice["message"]["tool_calls"]
    assert (first["type"], first["custom"]) == ("custom", {"name": "patch", "input": INPUT})
    assert (second["type"], second["function"]["name"]) == ("function", "weather")
    told, reason = deltas(post(scripted, CUSTOM + ROME, tools=offered, stream=True))
    calls = [delta["tool_calls"][0] for delta in told]
    assert reason == "tool_calls"
    assert calls[0] == {"index": 0, "id": calls[0]["id"], "type": "custom", "custom": {"name": "patch", "input": ""}}
    assert calls[1] == {"index": 0, "custom": {"input": INPUT}}
    assert {call["index"] for call in calls[2:]} == {1}
    assert "".join(call["function"]["arguments"] for call in calls[2:]) == '{"city": "Rome"}'


def test_a_custom_call_at_the_end_of_the_reply_is_complete(scripted: ServerProcess) -> None:
    told, reason = deltas(post(scripted, "I do. " + CUSTOM, tools=[PATCH], stream=True))
    assert "".join(delta.get("content", "") for delta in told) == "I do."
    assert told[-1] == {"tool_calls": [{"index": 0, "custom": {"input": INPUT}}]}
    assert reason == "tool_calls"


def test_a_custom_call_goes_back(scripted: ServerProcess) -> None:
    call = {"id": "c", "type": "custom", "custom": {"name": "patch", "input": INPUT}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "<say>done</say>"},
    ]
    body = {"messages": messages, "tools": [PATCH]}
    assert choice_of(ask(scripted.port, "POST", CHAT, body))["message"]["content"] == "done"
    prompt = ask(scripted.port, "POST", "/apply-template", body).json()["prompt"]
    assert json.dumps({"input": INPUT}, ensure_ascii=False) in prompt


# The older functions


def test_a_function_call_as_the_older_api_has_it(scripted: ServerProcess) -> None:
    choice = choice_of(post(scripted, "Well. " + ROME + ROME, functions=[WEATHER]))
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert choice["message"]["content"] == "Well."
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "function_call"


def test_a_function_call_is_streamed(scripted: ServerProcess) -> None:
    told, reason = deltas(post(scripted, ROME, functions=[WEATHER], function_call="auto", stream=True))
    first, *rest = [delta["function_call"] for delta in told]
    assert first == {"name": "weather", "arguments": ""}
    assert all(set(piece) == {"arguments"} for piece in rest)
    assert "".join(piece["arguments"] for piece in rest) == '{"city": "Rome"}'
    assert reason == "function_call"


def test_function_call_chooses(scripted: ServerProcess) -> None:
    functions = [{"name": "other", "parameters": SCHEMA}, WEATHER]
    choice = choice_of(post(scripted, "no", functions=functions, function_call={"name": "weather"}, max_tokens=60))
    assert choice["message"]["function_call"]["name"] == "weather"
    for wanted in ("none", "auto"):
        choice = choice_of(post(scripted, "no", functions=functions, function_call=wanted))
        assert (choice["message"]["content"], choice["finish_reason"]) == ("no", "stop")
    choice = choice_of(post(scripted, ROME, functions=functions, function_call="none"))
    assert "function_call" not in choice["message"]


def test_errors_of_legacy_functions_name_the_legacy_fields(scripted: ServerProcess) -> None:
    for fields, param in (
        ({"functions": [WEATHER], "function_call": {"name": "x"}}, "function_call"),
        ({"functions": [WEATHER], "tools": tools("weather")}, "functions"),
        ({"functions": [{"name": "f", "parameters": {"type": "array"}}]}, "functions"),
        ({"function_call": {"name": "weather"}}, "function_call"),
    ):
        reply = post(scripted, "x", **fields)
        assert (reply.status, reply.error()["param"]) == (400, param), fields


def test_the_older_history(scripted: ServerProcess) -> None:
    """A call in a message and its result, as LangChain's older agents send them: as the newer form of the same."""
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    older = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "weather", "content": "sunny"},
    ]
    newer = [
        older[0],
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    prompts = [
        ask(scripted.port, "POST", "/apply-template", {"messages": messages}).json()["prompt"]
        for messages in (older, newer)
    ]
    assert prompts[0] == prompts[1]
    assert "sunny" in prompts[0]
    assert '{"city": "Rome"}' in prompts[0]
    reply = ask(scripted.port, "POST", CHAT, {"messages": [older[2]], "functions": [WEATHER]})
    assert reply.status == 200, "a result without its call"
