"""Translates items into the chat template's messages.

The items of one turn of the model (reasoning, text, calls) become one assistant message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.messages import Message
from tailrace.server.custom_tools import custom_arguments
from tailrace.server.dialects.responses.hosted_tool_items import HostedCall, HostedResult, hosted_content, is_hosted
from tailrace.server.dialects.responses.items import (
    CallItem,
    CallOutputItem,
    CustomCallItem,
    Item,
    MessageItem,
    ReasoningItem,
    content_text,
    item_type,
    parse_item,
)
from tailrace.server.dialects.responses.tools import model_name


class ChatMessages(msgspec.Struct):
    """Messages, and the request's field of each."""

    messages: list[Message] = []
    paths: list[str] = []
    continues: bool = False  #: whether the reply continues the last message

    def add(self, message: Message, path: str) -> None:
        """One more message."""
        self.messages.append(message)
        self.paths.append(path)

    @property
    def size(self) -> int:
        """Characters of all messages, each counted as some at least."""
        return sum(64 + len(message["content"]) for message in self.messages)

    @property
    def turns(self) -> int:
        """The number of user messages."""
        return sum(message["role"] == "user" for message in self.messages)

    def without_oldest(self, turns: int) -> ChatMessages:
        """The messages without the first ``turns`` user messages and their replies. System messages stay."""
        remaining = ChatMessages(continues=self.continues)
        passed = 0
        for message, path in zip(self.messages, self.paths, strict=True):
            passed += message["role"] == "user"
            if passed > turns or message["role"] in ("system", "developer"):
                remaining.add(message, path)
        return remaining


def to_chat_messages(instructions: str | None, items: Sequence[tuple[Item, str]]) -> ChatMessages:
    """The conversation that ``items``, each with its path in the request, and the instructions are. References are
    resolved before. Raises InvalidRequest.
    """
    messages = ChatMessages()
    if instructions:
        messages.add({"role": "system", "content": instructions}, "instructions")
    turn: Message | None = None  #: the open message of the model

    def of_model(path: str, *, new: bool) -> Message:
        """The model's open message, a new one with ``fresh`` or without an open one."""
        nonlocal turn
        if turn is None or new:
            turn = {"role": "assistant", "content": ""}
            messages.add(turn, path)
        return turn

    def call(path: str, identity: str, name: str, arguments: Any) -> None:
        function = {"name": name, "arguments": decode_arguments(arguments)}
        tool_call = {"id": identity, "type": "function", "function": function}
        of_model(path, new=False).setdefault("tool_calls", []).append(tool_call)

    def result(path: str, identity: str, text: str) -> None:
        nonlocal turn
        turn = None
        messages.add({"role": "tool", "tool_call_id": identity, "content": text}, path)

    for item, path in items:
        if is_hosted(item):
            content = hosted_content(item)
            if isinstance(content, HostedCall):
                call(path, content.call_id, content.name, content.arguments)
                if content.result is not None:
                    result(path, content.call_id, content.result)
            elif isinstance(content, HostedResult):
                result(path, content.call_id, content.text)
            continue
        known = parse_item(item, path)
        if isinstance(known, ReasoningItem):
            if not known.text:
                continue  # Another server's, which only that one can read.
            thinking = of_model(path, new=turn is not None and bool(turn["content"] or "tool_calls" in turn))
            thinking.setdefault("reasoning_content", []).append(known.text)
        elif isinstance(known, MessageItem) and known.role == "assistant":
            text = content_text(known.content, f"{path}.content")
            of_model(path, new=turn is not None and bool(turn["content"] or "tool_calls" in turn))["content"] = text
        elif isinstance(known, CallItem):
            call(path, known.call_id, model_name(known.name, known.namespace), known.arguments)
        elif isinstance(known, CustomCallItem):
            call(path, known.call_id, model_name(known.name, known.namespace), custom_arguments(known.input))
        elif isinstance(known, CallOutputItem):
            result(path, known.call_id, content_text(known.output, f"{path}.output"))
        else:
            turn = None
            assert isinstance(known, MessageItem), "references are resolved before"
            messages.add({"role": known.role, "content": content_text(known.content, f"{path}.content")}, path)
    messages.continues = bool(items) and turn is not None and _unfinished(items[-1][0])
    for message in messages.messages:
        # Joined once: one by one would take time in proportion to the square of the items.
        if "reasoning_content" in message:
            message["reasoning_content"] = "".join(message["reasoning_content"])
    return messages


def _unfinished(item: Item) -> bool:
    """Whether the model's text or reasoning is marked incomplete: the reply continues it, as in vLLM."""
    return item_type(item) in ("message", "reasoning") and item.get("status") in ("incomplete", "in_progress")
