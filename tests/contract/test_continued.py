"""Replies that go on where the last message ends, in every dialect."""

from __future__ import annotations

from typing import Any

import pytest

from openai_wire import ask, say
from servers import ServerProcess

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]


def conversation(reply: str, begun: str) -> list[dict[str, Any]]:
    """The scripted backend says what the last script in its prompt tells it to."""
    return [{"role": "user", "content": say(reply)}, {"role": "assistant", "content": begun}]


def chat(server: ServerProcess, reply: str, begun: str, **fields: object) -> dict[str, Any]:
    body = {"messages": conversation(reply, begun), "continue_final_message": True, **fields}
    answer = ask(server.port, "POST", CHAT, body)
    assert answer.status == 200, answer.body
    message: dict[str, Any] = answer.json()["choices"][0]["message"]
    return message


def test_chat_completions_have_only_the_continuation(scripted: ServerProcess) -> None:
    assert chat(scripted, " well.", "I am")["content"] == " well."
    assert chat(scripted, " well.", "I am", add_generation_prompt=False)["content"] == " well."


def test_reasoning_that_the_prefix_has_opened_continues(scripted: ServerProcess) -> None:
    message = chat(scripted, "ll.</think>Yes.", "<think>We")
    assert (message["reasoning_content"], message["content"]) == ("ll.", "Yes.")


def test_a_call_that_the_prefix_has_opened_is_complete(scripted: ServerProcess) -> None:
    message = chat(scripted, '"arguments": {}}\n</tool_call>', '<tool_call>\n{"name": "now", ', tools=TOOLS)
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == ("now", "{}")


@pytest.mark.parametrize("route", [CHAT, "/apply-template", "/tokenize"])
def test_a_prompt_ends_within_a_message_or_begins_another(scripted: ServerProcess, route: str) -> None:
    both = {"continue_final_message": True, "add_generation_prompt": True}
    answer = ask(scripted.port, "POST", route, {"messages": conversation("a", "b"), **both})
    assert (answer.status, answer.error()["param"]) == (400, "continue_final_message")


def test_ollamas_chat_continues_an_assistant_message(scripted: ServerProcess) -> None:
    body = {"messages": conversation(" well.", "I am"), "stream": False}
    answer = ask(scripted.port, "POST", "/api/chat", body).json()
    assert answer["message"]["content"] == " well."
    assert answer["prompt_eval_count"] == 1 + len(f"[user]{say(' well.')}\n[assistant]I am")


def test_anthropics_messages_go_on(scripted: ServerProcess) -> None:
    body = {"model": "fake", "max_tokens": 50, "messages": conversation("ll.</think>Yes.", "<think>We")}
    answer = ask(scripted.port, "POST", "/v1/messages", body).json()
    assert [(block["type"], block.get("thinking") or block.get("text")) for block in answer["content"]] == [
        ("thinking", "ll."),
        ("text", "Yes."),
    ]


@pytest.mark.parametrize(("status", "continued"), [("incomplete", True), ("in_progress", True), ("completed", False)])
def test_responses_go_on_where_an_item_is_unfinished(scripted: ServerProcess, status: str, continued: bool) -> None:
    item = {
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_text", "text": "I am"}],
    }
    body = {"input": [{"role": "user", "content": say(" well.")}, item], "store": False}
    answer = ask(scripted.port, "POST", "/v1/responses", body)
    assert answer.status == 200, answer.body
    told = answer.json()
    prompt = f"[user]{say(' well.')}\n[assistant]I am"
    assert told["usage"]["input_tokens"] == 1 + len(prompt) + (not continued)
    assert told["output"][0]["content"][0]["text"] == " well."
