"""Finds out what a template supports: the form of each role's content, tools, and calls.

Content is one string, or a list of parts. Some templates take either, some only strings, some only parts, and they drop
other content silently. So each compiled template renders test conversations, with texts that no client writes. (vLLM:
``chat_template_content_format``; llama.cpp: capabilities of a template.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tailrace.chat.messages import Message, joined_text, text_part

#: Texts, a call and a tool of the test conversations.
_FIRST, _SECOND = "kx0q7zfirst", "kx0q7zsecond"
_CALL = {"id": "call00001", "type": "function", "function": {"name": "kx0q7zname", "arguments": {"kx0q7zkey": "v"}}}
_TOOL = {
    "type": "function",
    "function": {
        "name": "kx0q7zname",
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {"kx0q7zkey": {"type": "string", "description": "A key."}}},
    },
}
#: A part as Python and JSON print it: a template that prints one doesn't support parts.
_PRINTED = tuple(f"{q}text{q}: {q}{_FIRST}" for q in "'\"")

#: Renders messages with tools; None where the template fails.
TryRender = Callable[[list[Message], "list[Any] | None"], str | None]


class ContentFormat(msgspec.Struct, frozen=True):
    """The form of one role's content."""

    strings: bool = True
    parts: bool = False  #: several parts; where this and ``strings`` are False: one part

    def fit(self, content: Any) -> Any:
        """The content in a form that the template supports."""
        if isinstance(content, str):
            return content if self.strings else [text_part(content)]
        if self.parts and content:
            return content
        text = joined_text(content)
        return text if self.strings else [text_part(text)]


class TemplateCapabilities(msgspec.Struct, frozen=True):
    """The parts of a conversation that a template supports."""

    forms: dict[str, ContentFormat]  #: by role
    tools: bool  #: offered tools
    calls: bool  #: earlier calls and their results
    no_tools: list[Any] | None  #: the value of ``tools`` where there are none

    def fit(self, messages: list[Message]) -> list[Message]:
        """The messages with each content in the form that its role needs."""
        return [
            {**message, "content": self.forms.get(message["role"], _STRINGS_ONLY).fit(message["content"])}
            for message in messages
        ]


_STRINGS_ONLY = ContentFormat()


def detect_capabilities(attempt: TryRender, *, names_tools: bool) -> TemplateCapabilities:
    """Find out what a template supports. ``attempt`` renders with it. ``names_tools``: whether the template has a
    variable for tools.
    """
    forms: dict[str, ContentFormat] = {}
    no_tools: list[Any] | None = None

    def shows(messages: list[Message], tools: list[Any] | None, *wanted: str) -> bool:
        text = attempt(messages, tools)
        return text is not None and all(part in text for part in wanted) and not any(part in text for part in _PRINTED)

    def detect_content(role: str, conversation: Callable[[Any], list[Message]], tools: list[Any] | None) -> bool:
        strings = shows(conversation(_FIRST), tools, _FIRST)
        parts = shows(conversation([text_part(_FIRST), text_part(_SECOND)]), tools, _FIRST, _SECOND)
        if not (strings or parts) and not shows(conversation([text_part(_FIRST)]), tools, _FIRST):
            return False
        forms[role] = ContentFormat(strings=strings, parts=parts)
        return True

    def message_of(role: str, content: Any) -> Message:
        return {"role": role, "content": forms.get(role, _STRINGS_ONLY).fit(content)}

    if not detect_content("user", lambda content: [{"role": "user", "content": content}], None):
        no_tools = []
        if not detect_content("user", lambda content: [{"role": "user", "content": content}], no_tools):
            no_tools = None
    user = message_of("user", "Hello.")
    for role in ("system", "developer"):
        detect_content(role, lambda content, role=role: [{"role": role, "content": content}, user], no_tools)  # type: ignore[misc]
    detect_content("assistant", lambda content: [user, {"role": "assistant", "content": content}, user], no_tools)
    offered = names_tools and shows([user], [_TOOL], "kx0q7zname")
    if not offered and names_tools and "system" in forms:
        offered = shows([message_of("system", "Be brief."), user], [_TOOL], "kx0q7zname")
    call = {**message_of("assistant", ""), "tool_calls": [_CALL]}

    def answered(content: Any) -> list[Message]:
        return [user, call, {"role": "tool", "name": "kx0q7zname", "tool_call_id": "call00001", "content": content}]

    tools = [_TOOL] if offered else no_tools
    calls = detect_content("tool", answered, tools) and shows(answered(forms["tool"].fit(_FIRST)), tools, "kx0q7zname")
    return TemplateCapabilities(forms=forms, tools=offered, calls=calls, no_tools=no_tools)
