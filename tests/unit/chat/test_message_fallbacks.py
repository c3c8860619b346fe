"""Simpler forms of a conversation for templates that refuse it."""

from __future__ import annotations

from typing import Any

from tailrace.chat.messages import Message
from tailrace.chat.template import ChatTemplate


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, bos_token="", eos_token="")


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def message(role: str, content: Any) -> Message:
    return {"role": role, "content": content}


def test_calls_come_one_by_one_where_a_template_takes_single_calls() -> None:
    source = (
        "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}"
        "{{ raise_exception('single calls only') }}{% endif %}<{{ m.tool_calls[0].function.name }}>"
        "{% else %}[{{ m.content }}]{% endif %}{% endfor %}"
    )
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": {"a": 1}}} for name in ("now", "then")
    ]
    told = [
        message("user", "Both."),
        {**message("assistant", ""), "tool_calls": calls},
        {**message("tool", "first result"), "tool_call_id": "now"},
        {**message("tool", "second result"), "tool_call_id": "then"},
    ]
    assert template(source).render(told).text == "[Both.]<now>[first result]<then>[second result]"


def test_neighbours_of_one_role_are_joined_where_roles_must_alternate() -> None:
    source = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}[{{ m.content }}]{% endfor %}"
    )
    told = [message("user", "One."), message("user", "Two."), message("assistant", "Three."), message("user", "Four.")]
    assert template(source).render(told).text == "[One.\n\nTwo.][Three.][Four.]"
