"""Messages' content as a template reads it: one string, or a list of parts.

Some templates take either, some strings alone, some parts alone, and what they can't read they drop without a word. So
which form each role's content needs is found out with texts that no client writes, when the template is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

Message = dict[str, Any]  #: role, content (a string, or a list of text parts) and what else the template may want

#: What a conversation looks like whose last message is the role's, and a template call for it.
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
#: How Python and JSON print a part: a template that prints one has not read it.
_PRINTED = tuple(f"{q}text{q}: {q}{_FIRST}" for q in "'\"")

#: Renders messages with tools. Raises what a template raises.
TryRender = Callable[[list[Message], "list[Any] | None"], str | None]


class ContentFormat(msgspec.Struct, frozen=True):
    """What the content of one role may be."""

    strings: bool = True
    parts: bool = False  #: several; where it is False and ``strings`` too, one part

    def fit(self, content: Any) -> Any:
        """The content in a form that the template reads."""
        if isinstance(content, str):
            return content if self.strings else [text_part(content)]
        if self.parts and content:
            return content
        text = joined_text(content)
        return text if self.strings else [text_part(text)]


def text_part(text: str) -> dict[str, str]:
    """A part that is text."""
    return {"type": "text", "text": text}


def joined_text(content: Any) -> str:
    """The content as one string; its parts are lines."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content or ())


class TemplateCapabilities(msgspec.Struct, frozen=True):
    """What a template reads of a conversation."""

    forms: dict[str, ContentFormat]  #: by role
    tools: bool  #: the tools on offer
    calls: bool  #: calls in the history and their results
    no_tools: list[Any] | None  #: what ``tools`` has to be where there are none

    def fit(self, messages: list[Message]) -> list[Message]:
        """The messages with each content in the form that its role needs."""
        return [
            {**message, "content": self.forms.get(message["role"], _BOTH_WAYS).fit(message["content"])}
            for message in messages
        ]


_BOTH_WAYS = ContentFormat()


def detect_capabilities(attempt: TryRender, *, names_tools: bool) -> TemplateCapabilities:
    """Find out what the template that ``attempt`` renders with reads; None from it is a failure. ``names_tools``:
    whether it has a variable of that name.
    """
    forms: dict[str, ContentFormat] = {}
    no_tools: list[Any] | None = None

    def shows(messages: list[Message], tools: list[Any] | None, *wanted: str) -> bool:
        text = attempt(messages, tools)
        return text is not None and all(part in text for part in wanted) and not any(part in text for part in _PRINTED)

    def form_of(role: str, conversation: Callable[[Any], list[Message]], tools: list[Any] | None) -> bool:
        strings = shows(conversation(_FIRST), tools, _FIRST)
        parts = shows(conversation([text_part(_FIRST), text_part(_SECOND)]), tools, _FIRST, _SECOND)
        if not (strings or parts) and not shows(conversation([text_part(_FIRST)]), tools, _FIRST):
            return False
        forms[role] = ContentFormat(strings=strings, parts=parts)
        return True

    def said(role: str, content: Any) -> Message:
        return {"role": role, "content": forms.get(role, _BOTH_WAYS).fit(content)}

    if not form_of("user", lambda content: [{"role": "user", "content": content}], None):
        no_tools = []
        if not form_of("user", lambda content: [{"role": "user", "content": content}], no_tools):
            no_tools = None
    user = said("user", "Hello.")
    for role in ("system", "developer"):
        form_of(role, lambda content, role=role: [{"role": role, "content": content}, user], no_tools)  # type: ignore[misc]
    form_of("assistant", lambda content: [user, {"role": "assistant", "content": content}, user], no_tools)
    offered = names_tools and shows([user], [_TOOL], "kx0q7zname")
    if not offered and names_tools and "system" in forms:
        offered = shows([said("system", "Be brief."), user], [_TOOL], "kx0q7zname")
    call = {**said("assistant", ""), "tool_calls": [_CALL]}

    def answered(content: Any) -> list[Message]:
        return [user, call, {"role": "tool", "name": "kx0q7zname", "tool_call_id": "call00001", "content": content}]

    tools = [_TOOL] if offered else no_tools
    calls = form_of("tool", answered, tools) and shows(answered(forms["tool"].fit(_FIRST)), tools, "kx0q7zname")
    return TemplateCapabilities(forms=forms, tools=offered, calls=calls, no_tools=no_tools)
