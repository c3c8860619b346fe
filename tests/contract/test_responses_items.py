"""Items that other servers have made, tools that come as items, and items as the API lists them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.conversations import ConversationItem
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from openai_wire import Reply, ask, say
from servers import ServerProcess

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
LATE = {"type": "function", "name": "late", "parameters": {"type": "object"}}
USER = {"role": "user", "content": "go"}


def post(server: ServerProcess, given: object, **fields: object) -> Reply:
    return ask(server.port, "POST", "/v1/responses", {"input": given, "store": False, **fields})


def prompt_of(server: ServerProcess, items: list[dict[str, Any]]) -> str:
    """The conversation as the model gets it: the scripted backend repeats it."""
    response = post(server, items, tool_choice="none").json()
    assert response.get("status") == "completed", response
    return "".join(part["text"] for item in response["output"] for part in item.get("content", ()))


#: Each with the texts of which the model has to be told.
SPEAKING: list[tuple[str, list[dict[str, Any]], list[str]]] = [
    (
        "web search",
        [
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {
                    "type": "search",
                    "query": "tides in Bremen",
                    "sources": [{"type": "url", "url": "https://a.example"}],
                },
            }
        ],
        ["web_search", "tides in Bremen", "https://a.example"],
    ),
    (
        "page opened",
        [{"type": "web_search_call", "id": "ws_1", "action": {"type": "open_page", "url": "https://b.example"}}],
        ["web_search", "https://b.example"],
    ),
    (
        "local shell",
        [
            {
                "type": "local_shell_call",
                "id": "lsh_1",
                "call_id": "c1",
                "status": "completed",
                "action": {"type": "exec", "command": ["ls", "-la"], "env": {}},
            },
            {"type": "local_shell_call_output", "id": "c1", "output": "total 0"},
        ],
        ["local_shell", "-la", "total 0"],
    ),
    (
        "local shell, its output as a function's",
        [
            {"type": "local_shell_call", "call_id": "c1", "action": {"type": "exec", "command": ["pwd"]}},
            {"type": "function_call_output", "call_id": "c1", "output": "/home/me"},
        ],
        ["pwd", "/home/me"],
    ),
    (
        "shell",
        [
            {"type": "shell_call", "call_id": "c1", "action": {"commands": ["make"]}},
            {"type": "shell_call_output", "call_id": "c1", "output": [{"stdout": "built", "stderr": "warned"}]},
        ],
        ["shell", "make", "built", "warned"],
    ),
    (
        "patch",
        [
            {
                "type": "apply_patch_call",
                "call_id": "c1",
                "status": "completed",
                "operation": {"type": "update_file", "path": "a.py", "diff": "+x"},
            },
            {"type": "apply_patch_call_output", "call_id": "c1", "status": "failed", "output": "no such file"},
        ],
        ["apply_patch", "a.py", "+x", "no such file"],
    ),
    (
        "file search",
        [
            {
                "type": "file_search_call",
                "id": "fs_1",
                "queries": ["lock"],
                "results": [{"filename": "locks.md", "text": "a lock is a gate"}],
            }
        ],
        ["file_search", "lock", "locks.md", "a lock is a gate"],
    ),
    (
        "remote tool",
        [
            {
                "type": "mcp_call",
                "id": "mcp_1",
                "server_label": "wiki",
                "name": "read",
                "arguments": '{"page": "Weir"}',
                "output": "a low dam",
            }
        ],
        ["wiki__read", "Weir", "a low dam"],
    ),
    (
        "remote tool that failed",
        [{"type": "mcp_call", "id": "m", "server_label": "w", "name": "r", "arguments": "{}", "error": "timed out"}],
        ["w__r", "timed out"],
    ),
    (
        "code",
        [{"type": "code_interpreter_call", "id": "ci", "code": "1+1", "outputs": [{"type": "logs", "logs": "2!"}]}],
        ["code_interpreter", "1+1", "2!"],
    ),
    (
        "image",
        [{"type": "image_generation_call", "id": "ig", "revised_prompt": "a red boat", "result": "aGk="}],
        ["a red boat"],
    ),
    (
        "tool search",
        [
            {"type": "tool_search_call", "call_id": "c1", "arguments": {"query": "weather tools"}},
            {"type": "tool_search_output", "call_id": "c1", "tools": [WEATHER]},
        ],
        ["tool_search", "weather tools", "weather"],
    ),
    (
        "program",
        [
            {"type": "program", "id": "p", "call_id": "c1", "code": "run()", "fingerprint": "f"},
            {"type": "program_output", "id": "o", "call_id": "c1", "result": "ran", "status": "completed"},
        ],
        ["run()", "ran"],
    ),
]

SILENT: list[dict[str, Any]] = [
    {"type": "compaction", "id": "cmp_1", "encrypted_content": "AAAA"},
    {"type": "compaction_summary", "encrypted_content": "AAAA"},
    {"type": "ghost_snapshot", "ghost_commit": {"id": "abc", "parent": None}},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": None},
    {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk="},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "wiki", "tools": []},
    {"type": "mcp_approval_request", "id": "a", "arguments": "{}", "name": "r", "server_label": "w"},
    {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True},
    {"type": "configuration_update", "reasoning": {"effort": "low"}},
    {"type": "additional_tools", "role": "developer", "tools": []},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAA-of-another-server"},
]


@pytest.mark.parametrize(("items", "told"), [case[1:] for case in SPEAKING], ids=[case[0] for case in SPEAKING])
def test_hosted_tool_items_become_calls_and_results(
    scripted: ServerProcess, items: list[dict[str, Any]], told: list[str]
) -> None:
    said = prompt_of(scripted, [USER, *items, {"role": "user", "content": "and now?"}])
    places = [said.find(text) for text in told]
    assert -1 not in places, said
    assert places == sorted(places), "the call stands before its result"
    assert said.startswith("[user]go\n")
    assert said.endswith("[user]and now?\n")


@pytest.mark.parametrize("item", SILENT, ids=lambda item: item["type"])
def test_items_without_text_are_left_out(scripted: ServerProcess, item: dict[str, Any]) -> None:
    assert prompt_of(scripted, [USER, item, {"role": "user", "content": "x"}]) == "[user]go\n[user]x\n"


@pytest.mark.parametrize("value", [None, 1, "text", [], {}, [1], {"a": 1}])
def test_hosted_items_of_any_shape_are_no_defect(scripted: ServerProcess, value: object) -> None:
    kinds = {item["type"] for _, items, _ in SPEAKING for item in items} - {"function_call_output"}
    fields = [
        "action",
        "operation",
        "arguments",
        "output",
        "outputs",
        "queries",
        "results",
        "code",
        "result",
        "call_id",
    ]
    items = [{"type": kind, "call_id": value, **dict.fromkeys(fields, value)} for kind in sorted(kinds)]
    reply = post(scripted, [USER, *items, {"role": "user", "content": "<say>ok</say>"}])
    assert reply.status == 200, reply.body


# Tools that come as items


def test_tools_that_items_bring_join_the_request_s(scripted: ServerProcess) -> None:
    """Codex sends all of its tools so."""
    brought = {
        "type": "additional_tools",
        "role": "developer",
        "tools": [
            LATE,
            {"type": "custom", "name": "patch"},
            {"type": "namespace", "name": "sky", "tools": [{**WEATHER, "name": "clouds"}]},
            {"type": "web_search"},
            {"type": "image_generation"},
        ],
    }
    for name, shown in (("late", "late"), ("patch", "patch"), ("sky__clouds", "clouds"), ("weather", "weather")):
        arguments = {"input": "x"} if name == "patch" else {}
        call = json.dumps({"name": name, "arguments": arguments})
        said = say(f"<tool_call>{call}</tool_call>")
        response = post(scripted, [brought, {"role": "user", "content": said}], tools=[WEATHER]).json()
        assert response["output"][-1]["name"] == shown, response
        assert [tool["name"] for tool in response["tools"]] == ["weather"], "the request's own are listed"


def test_tools_of_an_earlier_turn_stay(scripted: ServerProcess) -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [LATE]}
    first = post(scripted, [brought, {"role": "user", "content": "<say>ok</say>"}], store=True).json()
    said = say('<tool_call>{"name": "late", "arguments": {}}</tool_call>')
    second = post(scripted, said, previous_response_id=first["id"], tool_choice={"type": "function", "name": "late"})
    assert second.json()["output"][-1]["name"] == "late"


def test_of_two_tools_of_one_name_the_request_s_own_counts(scripted: ServerProcess) -> None:
    brought = {"type": "additional_tools", "role": "developer", "tools": [{**WEATHER, "description": "old"}] * 2}
    assert post(scripted, [brought, USER], tools=[WEATHER]).status == 200
    twice = post(scripted, [brought, USER], tools=[WEATHER, WEATHER])
    assert (twice.status, twice.error()["param"]) == (400, "tools[1].name")


@pytest.mark.parametrize(
    ("tools", "param"),
    [([1], "input[0].tools[0]"), ([{"type": "function"}], "input[0].tools[0].name")],
)
def test_a_brought_tool_that_is_wrong_is_named(scripted: ServerProcess, tools: object, param: str) -> None:
    reply = post(scripted, [{"type": "additional_tools", "role": "developer", "tools": tools}, USER])
    assert (reply.status, reply.error()["param"]) == (400, param)


# Lists


def test_listed_items_have_the_published_form(scripted: ServerProcess) -> None:
    items = [
        USER,
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "b"}], "id": None},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}, {"type": "refusal", "refusal": "no"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}], "summary": []},
        {"type": "function_call", "call_id": "c0", "name": "weather", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c0", "output": "rain"},
        {"type": "custom_tool_call", "call_id": "c9", "name": "patch", "input": "+x"},
        {"type": "custom_tool_call_output", "call_id": "c9", "output": [{"type": "input_text", "text": "done"}]},
        *SPEAKING[0][1],
        *SPEAKING[2][1],
        {"role": "user", "content": "<say>ok</say>"},
    ]
    path = f"/v1/responses/{post(scripted, items, store=True).json()['id']}/input_items?order=asc&limit=50"
    page = ask(scripted.port, "GET", path).json()
    assert len(page["data"]) == len(items)
    published: TypeAdapter[Any] = TypeAdapter(ResponseItem)
    for item in page["data"]:
        read = published.validate_python(item, strict=True)
        assert read.id == item["id"]
        assert item["status"] == "completed"
    assert page["data"][0]["content"] == [{"type": "input_text", "text": "go"}]
    assert page["data"][2]["content"] == [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}]
    created = ask(scripted.port, "POST", "/v1/conversations", {"items": items[:11]}).json()["id"]
    listed = ask(scripted.port, "GET", f"/v1/conversations/{created}/items?order=asc").json()["data"]
    conversation: TypeAdapter[Any] = TypeAdapter(ConversationItem)
    for item in listed:
        conversation.validate_python(item, strict=True)


# Counting


def test_input_tokens_are_those_of_the_response(scripted: ServerProcess) -> None:
    for fields in ({}, {"instructions": "Be brief."}, {"tools": [WEATHER]}):
        told = ask(scripted.port, "POST", "/v1/responses/input_tokens", {"input": "héllo", **fields}).json()
        assert told == {"object": "response.input_tokens", "input_tokens": told["input_tokens"]}
        usage = post(scripted, "héllo", **fields).json()["usage"]
        assert told["input_tokens"] == usage["input_tokens"]
    body = {"messages": [{"role": "user", "content": "héllo"}]}
    told = ask(scripted.port, "POST", "/v1/chat/completions/input_tokens", body).json()
    usage = ask(scripted.port, "POST", "/v1/chat/completions", body).json()["usage"]
    assert told["input_tokens"] == usage["prompt_tokens"]


@pytest.mark.parametrize("path", ["/v1/responses/input_tokens", "/v1/chat/completions/input_tokens"])
def test_what_is_counted_is_checked(scripted: ServerProcess, path: str) -> None:
    assert ask(scripted.port, "POST", path, {}).status == 400
    # Below /chat/completions a GET is for a stored one of that name.
    assert ask(scripted.port, "GET", path).status == (405 if "responses" in path else 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/nothing"),
        ("POST", "/v1/responses/nothing"),
        ("DELETE", "/v1/responses/nothing"),
        ("POST", "/v1/responses/resp_1/nothing"),
        ("GET", "/v1/responses/resp_1/nothing"),
        ("GET", "/v1/responses/resp_1/input_items/more"),
        ("GET", "/v1/conversations/conv_1/nothing"),
    ],
)
def test_an_unknown_path_below_responses_is_a_404(scripted: ServerProcess, method: str, path: str) -> None:
    reply = ask(scripted.port, method, path, {} if method == "POST" else None)
    assert (reply.status, reply.error()["code"]) == (404, "not_found")
