"""Simpler forms of a conversation, for templates that refuse it or leave something out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tailrace.chat import tool_prompting as untaught
from tailrace.chat.history_calls import with_object_arguments
from tailrace.chat.template_capabilities import Message, joined_text


def fallbacks(messages: list[Message]) -> Iterator[list[Message]]:
    """The messages, then what says the same in ways that more templates know, each once."""
    tried: list[list[Message]] = []
    for change in _CHANGES:
        form = change(messages)
        if form not in tried:
            tried.append(form)
            yield form


def _as_they_are(messages: list[Message]) -> list[Message]:
    return messages


def _system_first(messages: list[Message]) -> list[Message]:
    """All system messages joined into one at the start."""
    system = [joined_text(m["content"]) for m in messages if m["role"] == "system"]
    rest = [m for m in messages if m["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system)}, *rest] if system else rest


def _system_in_user(messages: list[Message]) -> list[Message]:
    """The system text at the head of the first user message, for templates without a system role."""
    system = [joined_text(m["content"]) for m in messages if m["role"] == "system"]
    rest = [m for m in messages if m["role"] != "system"]
    for position, message in enumerate(rest):
        if message["role"] == "user" and system:
            text = "\n\n".join([*system, joined_text(message["content"])])
            return [*rest[:position], {**message, "content": text}, *rest[position + 1 :]]
    return rest


def _single_calls(messages: list[Message]) -> list[Message]:
    """Each call in a message of its own with its result behind it, for templates that know one call a message."""
    made: list[Message] = []
    waiting: list[Message] = []
    for message in _system_first(messages):
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        if len(calls) > 1:
            first = {**message, "tool_calls": list(calls[:1])}
            bare = {key: value for key, value in message.items() if key not in ("content", "reasoning_content")}
            waiting = [{**bare, "content": "", "tool_calls": [call]} for call in calls[1:]]
            made.append(first)
            continue
        made.append(message)
        if message["role"] == "tool" and waiting:
            made.append(waiting.pop(0))
        elif message["role"] != "tool":
            waiting = []
    return made


def _merged(messages: list[Message]) -> list[Message]:
    """Neighbours of one role joined, for templates that want user and assistant to take turns."""
    return _merge(_system_in_user(messages))


def _without_calls(messages: list[Message]) -> list[Message]:
    """Calls and results as texts, for templates that leave them out."""
    return _merge(
        _system_in_user(untaught.calls_to_text([{**m, "content": joined_text(m["content"])} for m in messages]))
    )


def _merge(messages: list[Message]) -> list[Message]:
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else None
        if last is not None and last["role"] == message["role"] and _plain(last) and _plain(message):
            texts = [text for m in (last, message) if (text := joined_text(m["content"]))]
            made[-1] = {**last, **message, "content": "\n\n".join(texts)}
        else:
            made.append(message)
    return made


def _plain(message: Message) -> bool:
    return message["role"] in ("user", "assistant") and not message.get("tool_calls")


_CHANGES: tuple[Callable[[list[Message]], list[Message]], ...] = (
    _as_they_are,
    _system_first,
    _system_in_user,
    with_object_arguments,
    lambda messages: with_object_arguments(_system_first(messages)),
    lambda messages: with_object_arguments(_system_in_user(messages)),
    lambda messages: with_object_arguments(_single_calls(messages)),
    lambda messages: with_object_arguments(_merged(messages)),
    _without_calls,
)
