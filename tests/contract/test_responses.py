"""The input that OpenAI's Responses take and refuse, and stored responses."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from openai_wire import Connection, ask, metric, say
from responses_requests import post, respond, text
from responses_wire import response_stream
from servers import ServerProcess, wait_for

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Bonn"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}


# Input


def test_text_and_items_say_the_same(scripted: ServerProcess) -> None:
    """A prompt without a script is echoed, so the reply is the prompt."""
    prompts = {
        text(respond(scripted, given, store=False))
        for given in (
            "héllo",
            [{"role": "user", "content": "héllo"}],
            [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "héllo"}]}],
            [{"type": None, "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "héllo"}]}],
        )
    }
    assert prompts == {"[user]héllo\n"}


def test_a_conversation_of_every_kind_of_item(scripted: ServerProcess) -> None:
    items = [
        {"role": "developer", "content": "D"},
        {"role": "user", "content": "U"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "R"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A", "annotations": []}]},
        CALL,
        {**CALL, "call_id": "call_2", "namespace": "sky"},
        OUTPUT,
        {**OUTPUT, "call_id": "call_2", "output": [{"type": "input_text", "text": "snow"}]},
        {"type": "custom_tool_call", "call_id": "call_3", "name": "patch", "input": "+x"},
        {"type": "custom_tool_call_output", "call_id": "call_3", "output": "done"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
    ]
    said = text(respond(scripted, items, instructions="I", store=False))
    assert said.startswith("[system]I\n[system]D\n[user]U\n[assistant]A\n<tool_call>")
    assert said.count("<tool_call>") == 3
    results = re.findall(r"<tool_response>\n(\w+)\n</tool_response>", said)
    assert results == ["rain", "snow", "done"]
    assert said.endswith("\n[user]a\nb\n")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (None, "input"),
        (1, "input"),
        ([1], "input[0]"),
        ([{"role": "robot", "content": ""}], "input[0].role"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"type": "hologram", "call_id": "c"}], "input[0].type"),
        ([{"type": ["message"], "role": "user"}], "input[0].type"),
        ([{"type": "x" * 10_000}], "input[0].type"),
        ([{"role": "user", "content": "", "id": {}}], "input[0].id"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id"),
        ([{"type": "item_reference", "id": "msg_nobody"}], "input[0].id"),
    ],
)
def test_wrong_input_is_named(scripted: ServerProcess, given: object, param: str) -> None:
    reply = post(scripted, given)
    assert reply.status == 400
    assert reply.error()["param"] == param
    assert len(reply.error()["message"]) < 400


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("text", {"format": {"type": "json_schema", "name": "x"}}, "text.format.schema"),
        ("text", {"format": {"type": "xml"}}, "text.format.type"),
        ("text", {"verbosity": "loud"}, "text.verbosity"),
        ("reasoning", {"summary": 1}, "reasoning.summary"),
        ("include", ["everything"], "include[0]"),
        ("top_logprobs", 21, "top_logprobs"),
        ("truncation", "some", "truncation"),
        ("metadata", {"a": 1}, "metadata[...]"),
        ("metadata", {str(n): "" for n in range(17)}, "metadata"),
        ("max_output_tokens", 0, "max_output_tokens"),
        ("temperature", 101, "temperature"),
        ("typical_p", 1.5, "typical_p"),
        ("mirostat", 3, "mirostat"),
        ("dry_sequence_breakers", [], "dry_sequence_breakers"),
        ("samplers", ["top_k", "nothing"], "samplers[1]"),
        ("conversation", {"id": 1}, "conversation.id"),
        ("prompt", {"id": "pmpt_1"}, "prompt"),
        ("moderation", {"model": "x"}, "moderation"),
        ("context_management", [{"type": "compaction"}], "context_management"),
        ("background_options", {"completion_window": "8h"}, "background_options"),
        ("tools", [{"type": "web_search"}], "tools[0].type"),
        ("tools", [WEATHER, {"type": "file_search", "vector_store_ids": []}], "tools[1].type"),
        ("tools", [{"type": "code_interpreter"}], "tools[0].type"),
        ("tools", [{"type": "mcp", "server_label": "x"}], "tools[0].type"),
        ("tools", [{"type": "local_shell"}], "tools[0].type"),
        ("tools", [{"type": "function"}], "tools[0].name"),
        ("tools", [WEATHER, WEATHER], "tools[1].name"),
        ("tools", [{"type": "namespace", "name": "a", "tools": [{"type": "mcp"}]}], "tools[0].tools[0].type"),
        ("tool_choice", "sometimes", "tool_choice"),
        ("tool_choice", {"type": "function", "name": "f"}, "tool_choice.name"),
        ("tool_choice", {"type": "file_search"}, "tool_choice.type"),
        ("tool_choice", {"type": "allowed_tools", "mode": "auto", "tools": []}, "tool_choice.tools"),
        ("tool_choice", {"type": "allowed_tools", "tools": [WEATHER]}, "tool_choice.mode"),
        ("previous_response_id", "resp_nobody", "previous_response_id"),
        ("stop", ["a"] * 1025, "stop"),
        ("n_cmpl", 2, "n_cmpl"),
        ("bad_words", ["x"], "bad_words"),
        ("enable_response_messages", True, "enable_response_messages"),
        ("previous_input_messages", [{}], "previous_input_messages"),
        ("model", "another", "model"),
    ],
)
def test_what_cant_be_honoured_is_refused_by_name(
    scripted: ServerProcess, field: str, value: object, param: str
) -> None:
    reply = post(scripted, "x", **{field: value})
    assert reply.status == (404 if field == "model" else 400)
    assert reply.error()["param"] == param


def test_null_equals_absent_and_unknown_fields_are_ignored(scripted: ServerProcess) -> None:
    from tailrace.server.dialects.responses.request import ResponsesRequest

    nothing = dict.fromkeys(ResponsesRequest.__struct_fields__)
    body = {**nothing, "input": "<say>a</say>", "store": False, "client_metadata": {"x": 1}, "new": [1]}
    assert text(ask(scripted.port, "POST", "/v1/responses", body).json()) == "a"


def test_a_search_beside_tools_of_the_client_is_never_made(scripted: ServerProcess) -> None:
    """As Codex asks with each request; the response doesn't list what isn't in force."""
    tools = [WEATHER, {"type": "web_search", "external_web_access": False}]
    assert [tool["type"] for tool in respond(scripted, "<say>a</say>", tools=tools, store=False)["tools"]] == [
        "function"
    ]


def test_tools_that_are_not_allowed_are_not_offered(real: ServerProcess) -> None:
    """Seen by the length of the prompt: the starter model's template writes no tools, so none may cost anything."""
    other = {**WEATHER, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    fields = {"tools": [WEATHER, other], "max_output_tokens": 1, "store": False}
    allowed = post(real, "x", tool_choice=choice, **fields).json()
    assert allowed["tool_choice"] == choice
    assert len(allowed["tools"]) == 2


def test_reasoning_comes_back_by_itself(scripted: ServerProcess) -> None:
    """What a client without stored responses sends back is understood; what another server has encrypted, ignored."""
    first = respond(scripted, say("<think>why</think>so"), store=False, include=["reasoning.encrypted_content"])
    assert text(respond(scripted, [*first["output"], {"role": "user", "content": "x"}], store=False)) == (
        "[assistant]so\n[user]x\n"
    )
    foreign = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    assert text(respond(scripted, [foreign, {"role": "user", "content": "x"}], store=False)).endswith("[user]x\n")


def test_structured_output(real: ServerProcess) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "name": "number", "schema": schema, "strict": True}
    response = respond(real, "A number, please.", text={"format": form}, store=False)
    assert set(json.loads(text(response))) == {"n"}
    assert response["text"]["format"]["schema"] == schema
    form_of_any = respond(
        real, "JSON: ", text={"format": {"type": "json_schema", "name": "x", "schema": {"const": {}}}}
    )
    assert text(form_of_any) == "{}"


def test_a_conversation_that_is_too_long(slow: ServerProcess) -> None:
    turns = [{"role": "user", "content": f"{n}{'x' * 998}"} for n in range(9)]
    reply = post(slow, turns, store=False)
    assert reply.status == 400
    assert reply.error()["code"] == "context_length_exceeded"
    assert reply.error()["param"] == "input"
    last = {"role": "user", "content": "<say>a</say>"}
    told = respond(slow, [{"role": "system", "content": "S"}, *turns, last], truncation="auto", store=False)
    assert text(told) == "a"
    # Of ten turns the first goes, then the next, then two more.
    assert 7000 < told["usage"]["input_tokens"] < 8192
    assert post(slow, "x" * 9000, truncation="auto").error()["code"] == "context_length_exceeded"


# What is kept


def test_a_response_is_stored_and_deleted(scripted: ServerProcess) -> None:
    response = respond(scripted, "<say>a</say>", metadata={"k": "v"})
    one = f"/v1/responses/{response['id']}"
    assert response["store"] is True
    assert ask(scripted.port, "GET", one).json() == response
    deleted = ask(scripted.port, "DELETE", one)
    assert deleted.json() == {"id": response["id"], "object": "response", "deleted": True}
    for method, path in (("GET", one), ("DELETE", one), ("POST", f"{one}/cancel"), ("GET", f"{one}/input_items")):
        gone = ask(scripted.port, method, path)
        assert gone.status == 404
        assert response["id"] in gone.error()["message"]


def test_a_response_without_store_is_not_stored(scripted: ServerProcess) -> None:
    response = respond(scripted, "<say>a</say>", store=False)
    assert response["store"] is False
    assert ask(scripted.port, "GET", f"/v1/responses/{response['id']}").status == 404
    assert post(scripted, "x", previous_response_id=response["id"]).error()["code"] == "previous_response_not_found"


def test_a_streamed_response_is_stored_before_its_last_event(scripted: ServerProcess) -> None:
    reply = ask(scripted.port, "POST", "/v1/responses", {"input": "<say>a</say>", "stream": True})
    response = response_stream(reply).response
    assert ask(scripted.port, "GET", f"/v1/responses/{response['id']}").json() == response


def test_a_response_continues_a_previous_response(scripted: ServerProcess) -> None:
    first = respond(scripted, [{"role": "user", "content": "one"}], instructions="FIRST")
    second = respond(scripted, "<say>two</say>", previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    third = respond(scripted, "three <say></say>", previous_response_id=second["id"], instructions="THIRD")
    # What was said comes again, but for the older instructions; seen by the prompt's length.
    said = "[system]THIRD\n[user]one\n[assistant][system]FIRST\n[user]one\n\n"
    said += "[user]<say>two</say>\n[assistant]two\n[user]three <say></say>\n"
    assert third["usage"]["input_tokens"] == len(said) + 1
    other = respond(scripted, "<say>else</say>", previous_response_id=first["id"])
    assert text(other) == "else"


def test_tools_go_round_by_the_response(scripted: ServerProcess) -> None:
    said = say('<tool_call>{"name": "weather", "arguments": {"city": "Bonn"}}</tool_call>')
    first = respond(scripted, said, tools=[WEATHER])
    (call,) = first["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "<say>It rains.</say>"}
    assert text(respond(scripted, [output], previous_response_id=first["id"], tools=[WEATHER])) == "It rains."


def test_references_resolve_to_stored_items(scripted: ServerProcess) -> None:
    first = respond(scripted, "<say>kept</say>")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    for item in (reference, {"id": reference["id"]}):
        assert text(respond(scripted, [item, {"role": "user", "content": "x"}])) == "[assistant]kept\n[user]x\n"
    kept = ask(scripted.port, "GET", f"/v1/responses/{first['id']}/input_items").json()["data"][0]
    again = [{"type": "item_reference", "id": kept["id"]}]
    assert text(respond(scripted, again, previous_response_id=first["id"])) == "kept"
    assert post(scripted, again).error()["param"] == "input[0].id", "another's input isn't found by its id alone"


def test_input_items_come_in_pages(scripted: ServerProcess) -> None:
    items = [{"role": "user", "content": str(n)} for n in range(5)]
    path = f"/v1/responses/{respond(scripted, [*items, {'role': 'user', 'content': '<say>a</say>'}])['id']}/input_items"

    def page(query: str) -> dict[str, Any]:
        page: dict[str, Any] = ask(scripted.port, "GET", path + query).json()
        assert page["object"] == "list"
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        assert all(item["type"] == "message" and item["id"].startswith("msg_") for item in page["data"])
        return page

    def texts(page: dict[str, Any]) -> list[str]:
        return [item["content"][0]["text"] for item in page["data"]]

    whole = page("")
    assert texts(whole) == ["<say>a</say>", "4", "3", "2", "1", "0"]
    assert whole["has_more"] is False
    first = page("?order=asc&limit=4&include[]=message.output_text.logprobs")
    assert (texts(first), first["has_more"]) == (["0", "1", "2", "3"], True)
    rest = page(f"?order=asc&limit=4&after={first['last_id']}")
    assert (texts(rest), rest["has_more"]) == (["4", "<say>a</say>"], False)
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=msg_x", "after")):
        assert ask(scripted.port, "GET", f"{path}?{query}").error()["param"] == param


def test_a_disconnect_cancels_the_response_and_stores_its_beginning(slow: ServerProcess) -> None:
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/responses", {"input": "<say>" + "a" * 4000 + "</say>", "stream": True})
        connection.read_head()
        path = f"/v1/responses/{json.loads(connection.chunk().split(b'data: ')[1])['response']['id']}"
        for _ in range(8):
            connection.chunk()
    wait_for("the cancel", lambda: metric(slow.port, "vllm:num_requests_running") == 0)
    wait_for("it to be kept", lambda: ask(slow.port, "GET", path).status == 200)
    kept = ask(slow.port, "GET", path).json()
    assert kept["status"] == "cancelled"
    assert kept["output"][0]["status"] == "incomplete"
    assert set(text(kept)) == {"a"}


def test_a_disconnect_cancels_an_unstreamed_response(slow: ServerProcess) -> None:
    with Connection(slow.port) as connection:
        connection.request("POST", "/v1/responses", {"input": "<say>" + "a" * 4000 + "</say>"})
        wait_for("it to run", lambda: metric(slow.port, "vllm:num_requests_running") == 1)
    wait_for("the cancel", lambda: metric(slow.port, "vllm:num_requests_running") == 0)
