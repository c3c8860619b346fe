"""Items to the messages that chat templates know.

The items of one turn of the model (its thought, its text, its calls) become one assistant message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.messages import Message
from tailrace.server.custom_tools import custom_arguments
from tailrace.server.dialects.responses.hosted import HostedCall, HostedResult, hosted, is_hosted
from tailrace.server.dialects.responses.items import (
    CallItem,
    CallOutputItem,
    CustomCallItem,
    Item,
    MessageItem,
    ReasoningItem,
    kind,
    read,
    text,
)
from tailrace.server.dialects.responses.tools import model_name


class Conversation(msgspec.Struct):
    """Messages, and for each the field of the request that it stands in."""

    messages: list[Message] = []
    places: list[str] = []
    continues: bool = False  #: whether the reply goes on where the last message ends

    def add(self, message: Message, place: str) -> None:
        """One more message."""
        self.messages.append(message)
        self.places.append(place)

    @property
    def size(self) -> int:
        """Characters of all messages, each counted as some at least."""
        return sum(64 + len(message["content"]) for message in self.messages)

    @property
    def turns(self) -> int:
        """How many messages of the user there are."""
        return sum(message["role"] == "user" for message in self.messages)

    def shortened(self, turns: int) -> Conversation:
        """The same without the first so many turns of the user and what followed on each, but with what the system
        says.
        """
        left = Conversation(continues=self.continues)
        passed = 0
        for message, place in zip(self.messages, self.places, strict=True):
            passed += message["role"] == "user"
            if passed > turns or message["role"] in ("system", "developer"):
                left.add(message, place)
        return left


def conversation(instructions: str | None, items: Sequence[tuple[Item, str]]) -> Conversation:
    """The conversation that ``items``, each with its place in the request, and the instructions are. References are
    resolved before. Raises InvalidRequest.
    """
    made = Conversation()
    if instructions:
        made.add({"role": "system", "content": instructions}, "instructions")
    turn: Message | None = None  #: the model's, to which more may come

    def of_model(place: str, *, fresh: bool) -> Message:
        """The model's turn, a new one where ``fresh`` or where there is none."""
        nonlocal turn
        if turn is None or fresh:
            turn = {"role": "assistant", "content": ""}
            made.add(turn, place)
        return turn

    def call(place: str, identity: str, name: str, arguments: Any) -> None:
        function = {"name": name, "arguments": decode_arguments(arguments)}
        made_call = {"id": identity, "type": "function", "function": function}
        of_model(place, fresh=False).setdefault("tool_calls", []).append(made_call)

    def result(place: str, identity: str, said: str) -> None:
        nonlocal turn
        turn = None
        made.add({"role": "tool", "tool_call_id": identity, "content": said}, place)

    for item, place in items:
        if is_hosted(item):
            told = hosted(item)
            if isinstance(told, HostedCall):
                call(place, told.call_id, told.name, told.arguments)
                if told.result is not None:
                    result(place, told.call_id, told.result)
            elif isinstance(told, HostedResult):
                result(place, told.call_id, told.text)
            continue
        known = read(item, place)
        if isinstance(known, ReasoningItem):
            if not known.text:
                continue  # Another server's, which only that one can read.
            thinking = of_model(place, fresh=turn is not None and bool(turn["content"] or "tool_calls" in turn))
            thinking["reasoning_content"] = thinking.get("reasoning_content", "") + known.text
        elif isinstance(known, MessageItem) and known.role == "assistant":
            said = text(known.content, f"{place}.content")
            of_model(place, fresh=turn is not None and bool(turn["content"] or "tool_calls" in turn))["content"] = said
        elif isinstance(known, CallItem):
            call(place, known.call_id, model_name(known.name, known.namespace), known.arguments)
        elif isinstance(known, CustomCallItem):
            call(place, known.call_id, model_name(known.name, known.namespace), custom_arguments(known.input))
        elif isinstance(known, CallOutputItem):
            result(place, known.call_id, text(known.output, f"{place}.output"))
        else:
            turn = None
            assert isinstance(known, MessageItem), "references are resolved before"
            made.add({"role": known.role, "content": text(known.content, f"{place}.content")}, place)
    made.continues = bool(items) and turn is not None and _unfinished(items[-1][0])
    return made


def _unfinished(item: Item) -> bool:
    """Whether the model's text or thought is marked as one that isn't whole: the reply goes on there, as in vLLM."""
    return kind(item) in ("message", "reasoning") and item.get("status") in ("incomplete", "in_progress")
