"""Finds messages that a template has dropped from the prompt.

Templates drop messages that they don't expect: a second system message, or an unknown role. They may also trim a text,
write it as JSON, or leave out thoughts of earlier turns. So a text that isn't found unchanged gets a mark at its end,
and the conversation is rendered again. Where the mark is missing, the text is too.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

from tailrace.chat.messages import Message

#: A shorter text may be in the prompt by chance.
_MIN_SEARCHED = 12
#: Texts that may come earlier than expected (a system message that the template has moved).
_MAX_MOVED = 8
#: Ends of thoughts, which templates take out of earlier turns.
_THOUGHT_ENDS = ("</think>", "[/THINK]")


def first_dropped(prompt: str, messages: list[Message], render: Callable[[list[Message]], str | None]) -> int | None:
    """The index of the first message whose text isn't in the prompt; None where all are. ``render`` renders other
    messages in the same way; None where the template refuses.

    Texts of the system, the user and tools must be there, and the assistant's visible ones. The assistant's text beside
    calls may be left out, as the formats of Llama 3 and Mistral do.
    """
    if _all_found(prompt, messages):
        return None
    nonce = f"m{secrets.token_hex(8)}x"
    marks: list[int] = []
    marked = [_marked(message, index, nonce, marks) for index, message in enumerate(messages)]
    if not marks:
        return None
    text = render(marked)
    if text is None:
        return marks[0]
    found = {int(number) for number in re.findall(f"{nonce}([0-9]+)x", text)}
    return next((message for number, message in enumerate(marks) if number not in found), None)


def _needed(message: Message) -> bool:
    return not (message["role"] == "assistant" and message.get("tool_calls"))


def _texts(message: Message) -> list[str]:
    """The texts to search for, without the white space around them, which templates trim."""
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    if message["role"] == "assistant":
        for end in _THOUGHT_ENDS:
            texts = [text.rpartition(end)[2] for text in texts]
    return [stripped for text in texts if (stripped := text.strip())]


def _all_found(prompt: str, messages: list[Message]) -> bool:
    """Whether each text is in the prompt unchanged, after the texts before it."""
    position = moved = 0
    for message in messages:
        if not _needed(message):
            continue
        for text in _texts(message):
            if len(text) < _MIN_SEARCHED:
                return False
            at = prompt.find(text, position)
            if at >= 0:
                position = at + len(text)
                continue
            moved += 1
            if moved > _MAX_MOVED or prompt.find(text, 0, position) < 0:
                return False
    return True


def _marked(message: Message, index: int, nonce: str, marks: list[int]) -> Message:
    """The message with a mark after each of its texts."""
    if not _needed(message):
        return message

    def marked(text: str) -> str:
        if not text.strip():
            return text
        marks.append(index)
        return f"{text} {nonce}{len(marks) - 1}x"

    content: Any = message["content"]
    if isinstance(content, str):
        return {**message, "content": marked(content)}
    return {**message, "content": [{**part, "text": marked(part["text"])} for part in content]}
