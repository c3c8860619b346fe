"""Anthropic's messages as chat templates expect them: one role a message, content a string, tool results by themselves.

It refuses what the model can't read and tool results that answer no call, and names where they stand.
"""

from __future__ import annotations

from typing import Any

from tailrace.chat.template import Message
from tailrace.errors import InvalidRequest
from tailrace.server.dialects.anthropic.blocks import (
    ContentSource,
    DocumentBlock,
    ImageBlock,
    RedactedThinkingBlock,
    ResultBlock,
    SearchResultBlock,
    TextBlock,
    TextSource,
    ThinkingBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from tailrace.server.dialects.anthropic.request import InputMessage

#: Claude Code's accounting, which isn't meant for the model. It may differ from request to request and stands at the
#: very beginning, where it would keep prompts from being found again.
_ACCOUNTING = "x-anthropic-billing-header:"


def system_text(system: str | list[TextBlock] | None) -> str:
    """The system prompt; empty when there is none."""
    if isinstance(system, str):
        return system
    return "\n".join(block.text for block in system or () if not block.text.startswith(_ACCOUNTING))


def conversation(messages: list[InputMessage]) -> list[Message]:
    """The messages in the form of ``ChatTemplate.render``. Raises InvalidRequest."""
    rendered: list[Message] = []
    called: dict[str, str] = {}  # Each call's tool, by the call's id.
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.role == "assistant":
            _append(rendered, _assistant(message, path, called))
            continue
        texts: list[str] = []
        for block, where in _blocks(message, path):
            if isinstance(block, ToolResultBlock) and message.role == "user":
                rendered.append(_result(block, where, called))
            elif isinstance(block, (ThinkingBlock, RedactedThinkingBlock, ToolUseBlock, ToolResultBlock)):
                raise _misplaced(block, message.role, where)
            else:
                texts.append(_text(block, where))
        if texts or not message.content:
            _append(rendered, {"role": message.role, "content": "\n".join(texts)})
    return rendered


def keep_thoughts(messages: list[Message], turns: int) -> None:
    """Leave thoughts only in the last ``turns`` messages that have one."""
    for message in [m for m in messages if "reasoning_content" in m][:-turns]:
        del message["reasoning_content"]


def prefill(message: InputMessage, path: str) -> str | None:
    """The text with which the reply shall begin, when the last message is the assistant's. Raises InvalidRequest."""
    if message.role != "assistant":
        return None
    texts: list[str] = []
    for block, where in _blocks(message, path):
        if not isinstance(block, TextBlock):
            raise InvalidRequest(
                f"'{where}': the beginning of a reply can only be text; after a tool call the next message is the "
                "user's, with its result.",
                param=where,
            )
        texts.append(block.text)
    return "".join(texts)


def _blocks(message: InputMessage, path: str) -> list[tuple[Any, str]]:
    """The content's blocks and where they stand."""
    if isinstance(message.content, str):
        return [(TextBlock(message.content), f"{path}.content")] if message.content else []
    return [(block, f"{path}.content[{index}]") for index, block in enumerate(message.content)]


def _append(rendered: list[Message], message: Message) -> None:
    """Add the message; neighbours of one role are one turn, because many templates want roles to alternate."""
    last = rendered[-1] if rendered else None
    if last is None or last["role"] != message["role"] or message["role"] == "system":
        rendered.append(message)
        return
    for name in ("content", "reasoning_content"):
        if text := message.get(name):
            last[name] = f"{last[name]}\n{text}" if last.get(name) else text
    if calls := message.get("tool_calls"):
        last["tool_calls"] = [*last.get("tool_calls", ()), *calls]


def _assistant(message: InputMessage, path: str, called: dict[str, str]) -> Message:
    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[dict[str, Any]] = []
    for block, where in _blocks(message, path):
        if isinstance(block, ToolUseBlock):
            called[block.id] = block.name
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif isinstance(block, ThinkingBlock):
            thoughts.append(block.thinking)
        elif isinstance(block, TextBlock):
            texts.append(block.text)
        elif not isinstance(block, RedactedThinkingBlock):
            raise _misplaced(block, message.role, where)
    rendered: Message = {"role": "assistant", "content": "\n".join(texts)}
    if thought := "\n".join(thoughts):
        rendered["reasoning_content"] = thought
    if calls:
        rendered["tool_calls"] = calls
    return rendered


def _result(block: ToolResultBlock, path: str, called: dict[str, str]) -> Message:
    if block.tool_use_id not in called:
        where = f"{path}.tool_use_id"
        raise InvalidRequest(f"'{where}': no 'tool_use' block before has this id.", param=where)
    content = block.content or ""
    if not isinstance(content, str):
        content = "\n".join(_text(part, f"{path}.content[{index}]") for index, part in enumerate(content))
    if block.is_error:
        content = f"Error: {content}"
    return {"role": "tool", "content": content, "tool_call_id": block.tool_use_id, "name": called[block.tool_use_id]}


def _text(block: ResultBlock, path: str) -> str:
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, ToolReferenceBlock):
        return block.tool_name
    if isinstance(block, SearchResultBlock):
        return "\n".join([block.title, block.source, *(part.text for part in block.content)])
    if isinstance(block, ImageBlock):
        raise InvalidRequest(f"This model reads text alone; '{path}' is an image.", param=path)
    return _document(block, path)


def _document(block: DocumentBlock, path: str) -> str:
    source = block.source
    if isinstance(source, TextSource):
        text = source.data
    elif isinstance(source, ContentSource):
        content = source.content
        text = (
            content
            if isinstance(content, str)
            else "\n".join(_text(part, f"{path}.source.content[{index}]") for index, part in enumerate(content))
        )
    else:
        where = f"{path}.source"
        kind = source.__struct_config__.tag
        raise InvalidRequest(
            f"'{where}': a document of type '{kind}' can't be read; send its text as a source of type 'text'.",
            param=where,
        )
    return "\n".join(part for part in (block.title, block.context, text) if part)


def _misplaced(block: Any, role: str, path: str) -> InvalidRequest:
    kind = block.__struct_config__.tag
    return InvalidRequest(f"'{path}': a block of type '{kind}' can't stand in a message of '{role}'.", param=path)
