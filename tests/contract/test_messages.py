"""The messages of a chat: forms of content, roles, and what is wrong with a message."""

from __future__ import annotations

import pytest

from openai_requests import CHAT, ask_chat
from openai_wire import ask, chat_stream
from servers import ServerProcess


@pytest.mark.parametrize(
    ("content", "prompt"),
    [
        ("plain", "[user]plain\n"),
        (None, "[user]\n"),
        ("", "[user]\n"),
        ([], "[user]\n"),
        ([{"type": "text", "text": "one"}], "[user]one\n"),
        ([{"type": "text", "text": "one", "cache_control": {}}, {"type": "text", "text": "two"}], "[user]one\ntwo\n"),
        ([{"type": "refusal", "refusal": "no"}], "[user]no\n"),
    ],
)
def test_forms_of_content(scripted: ServerProcess, content: object, prompt: str) -> None:
    """A prompt without a script is echoed."""
    reply = ask_chat(scripted, messages=[{"role": "user", "content": content}], max_tokens=100)
    assert reply.json()["choices"][0]["message"]["content"] == prompt


def test_an_earlier_refusal_becomes_the_content(scripted: ServerProcess) -> None:
    messages = [{"role": "assistant", "content": None, "refusal": "no"}, {"role": "user", "content": "why"}]
    said = ask_chat(scripted, messages=messages).json()["choices"][0]["message"]["content"]
    assert said == "[assistant]no\n[user]why\n"


def test_roles(scripted: ServerProcess) -> None:
    """Developer is system for a template that doesn't know it; system messages may stand anywhere. Where it knows no
    tools, calls and results are told as text.
    """
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "developer", "content": "c"},
        {
            "role": "assistant",
            "content": "d",
            "unknown": 1,
            "tool_calls": [{"id": "call_1", "function": {"name": "f"}}],
        },
        {"role": "system", "content": "e"},
        {"role": "tool", "content": "f", "tool_call_id": "call_1"},
        {"role": "function", "content": "g", "name": "f"},
    ]
    said = ask_chat(scripted, messages=messages).json()["choices"][0]["message"]["content"]
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    results = "<tool_response>\nf\n</tool_response>\n<tool_response>\ng\n</tool_response>"
    assert said == f"[system]a\n[user]b\n[system]c\n[assistant]d\n{call}\n[system]e\n[user]{results}\n"


def test_roles_with_the_real_model(real: ServerProcess) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "system", "content": "Be honest."},
    ]
    reply = ask(real.port, "POST", CHAT, {"messages": messages, "max_tokens": 2, "tools": [], "stream": True})
    assert chat_stream(reply).finish == ["length"]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"content": "x"}, "messages[0].role"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": None, "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "video"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages[0].tool_calls[0].function.name"),
    ],
)
def test_a_wrong_message_is_named_to_the_field(scripted: ServerProcess, message: object, param: str) -> None:
    reply = ask_chat(scripted, messages=[message])
    assert reply.status == 400
    assert reply.error()["param"] == param
