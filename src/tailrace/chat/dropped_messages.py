"""Whether a prompt has everything that was said.

Templates drop what they don't expect: a second system message, a role that they don't know. They may trim a text, write
it as JSON or leave thoughts of earlier turns out. So a text that isn't found as it is gets a mark at its end, and the
conversation is rendered again: where the mark is missing, so is the text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import Any

from tailrace.chat.template_capabilities import Message

#: A shorter text may stand in the prompt by chance.
_TELLING = 12
#: Texts that may stand before the place where they are expected (a system message that was moved).
_MOVED = 8
#: Ends of thoughts, which templates take out of earlier turns.
_THOUGHT_ENDS = ("</think>", "[/THINK]")


def first_dropped(prompt: str, messages: list[Message], render: Callable[[list[Message]], str | None]) -> int | None:
    """The first message whose text the prompt lacks; None where it has all. ``render`` renders other messages in the
    same way, None where the template refuses.

    What has to be there: the texts of system, user and tools, and the assistant's visible ones. Beside calls the
    assistant's text may be left out, as the formats of Llama 3 and Mistral do.
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
    """What has to be found, without the white space around it that templates trim."""
    content = message["content"]
    texts = [content] if isinstance(content, str) else [part["text"] for part in content]
    if message["role"] == "assistant":
        for end in _THOUGHT_ENDS:
            texts = [text.rpartition(end)[2] for text in texts]
    return [stripped for text in texts if (stripped := text.strip())]


def _all_found(prompt: str, messages: list[Message]) -> bool:
    """Whether each text stands in the prompt as it is, behind those before it."""
    position = moved = 0
    for message in messages:
        if not _needed(message):
            continue
        for text in _texts(message):
            if len(text) < _TELLING:
                return False
            at = prompt.find(text, position)
            if at >= 0:
                position = at + len(text)
                continue
            moved += 1
            if moved > _MOVED or prompt.find(text, 0, position) < 0:
                return False
    return True


def _marked(message: Message, index: int, nonce: str, marks: list[int]) -> Message:
    """The message with a mark behind each of its texts."""
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
