"""Ends a prompt within the last message, which the reply continues: transformers' ``continue_final_message``.

A tag is appended to the last message's text, and the rendered prompt is cut at the tag. So the prompt has everything
that the template writes before the text, and nothing after it. White space is trimmed where the template trims it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from tailrace.chat.messages import Message

#: Characters that a template may put between a message's head and its text: a default thought, for example.
_MAX_BETWEEN = 1024


def continued_field(message: Message) -> str:
    """The field to continue: the content, or the thought of a message without content."""
    thought = message.get("reasoning_content")
    return "reasoning_content" if thought and not _last_text(message["content"]).strip() else "content"


def render_continued(messages: list[Message], field: str, render: Callable[[list[Message]], str | None]) -> str | None:
    """The prompt that ends within ``field`` of the last message. ``render`` renders messages without the head of a
    reply. None where the template doesn't show the text, or refuses.
    """
    tag = f"CONTINUE{secrets.token_hex(8)} "
    last = messages[-1]
    text = render([*messages[:-1], {**last, field: _tagged(last.get(field) or "", tag)}])
    if text is None or tag.strip() not in text or _last_text(last.get(field) or "").strip() not in text:
        return None
    at = text.rindex(tag.strip())
    if text[at : at + len(tag)] == tag:
        return text[:at]
    # The template trims texts, so the text's own white space is trimmed as well.
    return text[:at].rstrip()


def reply_position(prompt: str, opening: str | None, message: Message, field: str) -> tuple[int, int]:
    """Where in the prompt of ``render_continued`` the reply begins, and where the message's own text begins. The reply
    begins after the text that the template puts before a new reply (``opening`` is that prompt; None where the
    template refuses it).
    """
    text = _last_text(message.get(field) or "").strip()
    message_start = prompt.rfind(text) if text else len(prompt)
    at = message_start if opening is None else min(_common_prefix(prompt, opening), message_start)
    max_between = len(message.get("reasoning_content") or "") + _MAX_BETWEEN
    return (at if message_start - at <= max_between else message_start), message_start


def _tagged(content: Any, tag: str) -> Any:
    if isinstance(content, str):
        return content + tag
    parts = list(content)
    parts[-1] = {**parts[-1], "text": parts[-1]["text"] + tag}
    return parts


def _last_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return str(content[-1]["text"]) if content else ""


def _common_prefix(left: str, right: str) -> int:
    """The length of the common prefix."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
