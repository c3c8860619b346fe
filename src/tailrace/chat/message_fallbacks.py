"""Simpler forms of a conversation, for templates that refuse it or leave a message out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tailrace.chat import tool_prompting
from tailrace.chat.history_calls import with_object_arguments
from tailrace.chat.messages import Message, joined_text


def fallbacks(messages: list[Message]) -> Iterator[list[Message]]:
    """The messages, then simpler forms with the same content, without duplicates."""
    tried: list[list[Message]] = []
    for change in _FALLBACKS:
        form = change(messages)
        if form not in tried:
            tried.append(form)
            yield form


def _unchanged(messages: list[Message]) -> list[Message]:
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
    """Each call in its own message, followed by its result, for templates with one call a message."""
    result: list[Message] = []
    waiting: list[Message] = []
    for message in _system_first(messages):
        calls: list[dict[str, Any]] = message.get("tool_calls") or []
        if len(calls) > 1:
            first = {**message, "tool_calls": list(calls[:1])}
            bare = {key: value for key, value in message.items() if key not in ("content", "reasoning_content")}
            waiting = [{**bare, "content": "", "tool_calls": [call]} for call in calls[1:]]
            result.append(first)
            continue
        result.append(message)
        if message["role"] == "tool" and waiting:
            result.append(waiting.pop(0))
        elif message["role"] != "tool":
            waiting = []
    return result


def _merged(messages: list[Message]) -> list[Message]:
    """Neighbouring messages of one role joined, for templates that want user and assistant to alternate."""
    return _merge(_system_in_user(messages))


def _without_calls(messages: list[Message]) -> list[Message]:
    """Calls and results as texts, for templates that leave them out."""
    return _merge(
        _system_in_user(tool_prompting.calls_to_text([{**m, "content": joined_text(m["content"])} for m in messages]))
    )


def _merge(messages: list[Message]) -> list[Message]:
    result: list[Message] = []
    for message in messages:
        last = result[-1] if result else None
        if last is not None and last["role"] == message["role"] and _is_text(last) and _is_text(message):
            texts = [text for m in (last, message) if (text := joined_text(m["content"]))]
            result[-1] = {**last, **message, "content": "\n\n".join(texts)}
        else:
            result.append(message)
    return result


def _is_text(message: Message) -> bool:
    return message["role"] in ("user", "assistant") and not message.get("tool_calls")


_FALLBACKS: tuple[Callable[[list[Message]], list[Message]], ...] = (
    _unchanged,
    _system_first,
    _system_in_user,
    with_object_arguments,
    lambda messages: with_object_arguments(_system_first(messages)),
    lambda messages: with_object_arguments(_system_in_user(messages)),
    lambda messages: with_object_arguments(_single_calls(messages)),
    lambda messages: with_object_arguments(_merged(messages)),
    _without_calls,
)
