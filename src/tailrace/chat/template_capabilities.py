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
_FIRST, _SECOND, _NAME = "kx0q7zfirst", "kx0q7zsecond", "kx0q7zname"
_CALL: dict[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": _NAME, "arguments": {"kx0q7zkey": "v"}},
}
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
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
    return _Detector(attempt).detect(names_tools=names_tools)


class _Detector:
    """Renders test conversations with one template."""

    def __init__(self, attempt: TryRender) -> None:
        self._attempt = attempt
        self._forms: dict[str, ContentFormat] = {}  #: by role, as far as they are known

    def detect(self, *, names_tools: bool) -> TemplateCapabilities:
        no_tools = self._detect_user()
        user = self._message("user", "Hello.")
        for role in ("system", "developer"):
            self._detect_content(role, [], [user], no_tools)
        self._detect_content("assistant", [user], [user], no_tools)
        offered = names_tools and self._shows([user], [_TOOL], _NAME)
        if not offered and names_tools and "system" in self._forms:
            offered = self._shows([self._message("system", "Be brief."), user], [_TOOL], _NAME)
        calls = self._detect_calls(user, [_TOOL] if offered else no_tools)
        return TemplateCapabilities(forms=self._forms, tools=offered, calls=calls, no_tools=no_tools)

    def _detect_user(self) -> list[Any] | None:
        """Detect the user's content. Returns the value of ``tools`` for no tools: some templates need a list."""
        if self._detect_content("user", [], [], None):
            return None
        return [] if self._detect_content("user", [], [], []) else None

    def _detect_calls(self, user: Message, tools: list[Any] | None) -> bool:
        """Whether the template shows calls and their results."""
        call = {**self._message("assistant", ""), "tool_calls": [_CALL]}
        result: Message = {"role": "tool", "name": _NAME, "tool_call_id": _CALL["id"]}
        if not self._detect_content("tool", [user, call], [], tools, message=result):
            return False
        return self._shows([user, call, {**result, **self._message("tool", _FIRST)}], tools, _NAME)

    def _detect_content(
        self,
        role: str,
        before: list[Message],
        after: list[Message],
        tools: list[Any] | None,
        message: Message | None = None,
    ) -> bool:
        """Detect the form of the role's content in a message between others; False where no form is shown."""

        def shows(content: Any, *texts: str) -> bool:
            return self._shows([*before, {"role": role, **(message or {}), "content": content}, *after], tools, *texts)

        strings = shows(_FIRST, _FIRST)
        parts = shows([text_part(_FIRST), text_part(_SECOND)], _FIRST, _SECOND)
        if not (strings or parts) and not shows([text_part(_FIRST)], _FIRST):
            return False
        self._forms[role] = ContentFormat(strings=strings, parts=parts)
        return True

    def _message(self, role: str, content: Any) -> Message:
        return {"role": role, "content": self._forms.get(role, _STRINGS_ONLY).fit(content)}

    def _shows(self, messages: list[Message], tools: list[Any] | None, *texts: str) -> bool:
        """Whether the rendered conversation contains all of ``texts``, and no part as Python or JSON prints it."""
        text = self._attempt(messages, tools)
        return text is not None and all(part in text for part in texts) and not any(part in text for part in _PRINTED)
