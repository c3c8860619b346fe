"""Anthropic's messages as chat templates expect them: one role a message, content a string, tool results by themselves.

It refuses what the model can't read, and names where it stands.
"""

from __future__ import annotations

from typing import Any

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.messages import Message
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


class History:
    """The messages in the form of ``converse``. ``places`` are where each stands in the request."""

    def __init__(self, messages: list[InputMessage]) -> None:
        """Raises InvalidRequest."""
        self.messages: list[Message] = []
        self.places: list[str] = []
        self._called: dict[str, str] = {}  #: each call's tool, by the call's id
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            if message.role == "assistant":
                # The blocks of a reply that goes on are one text; those of earlier ones are lines of it.
                between = "\n" if index < len(messages) - 1 else ""
                self._append(self._assistant(message, path, between), path)
            else:
                self._read(message, path)

    def begin(self, system: str) -> None:
        """Put the system prompt in front."""
        self.messages.insert(0, {"role": "system", "content": system})
        self.places.insert(0, "system")

    def keep_thoughts(self, turns: int) -> None:
        """Leave thoughts only in the last ``turns`` messages that have one."""
        for message in [m for m in self.messages if "reasoning_content" in m][:-turns]:
            del message["reasoning_content"]

    def _read(self, message: InputMessage, path: str) -> None:
        """A message of the user's or the system's: tools' results first, then what else it says."""
        texts: list[str] = []
        for block, where in _blocks(message, path):
            if isinstance(block, ToolResultBlock) and message.role == "user":
                self._append(self._result(block, where), where)
            elif isinstance(block, (ThinkingBlock, RedactedThinkingBlock, ToolUseBlock, ToolResultBlock)):
                raise _misplaced(block, message.role, where)
            else:
                texts.append(_text(block, where))
        if texts or not message.content:
            self._append({"role": message.role, "content": "\n".join(texts)}, path)

    def _assistant(self, message: InputMessage, path: str, between: str) -> Message:
        thoughts: list[str] = []
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        for block, where in _blocks(message, path):
            if isinstance(block, ToolUseBlock):
                self._called[block.id] = block.name
                function = {"name": block.name, "arguments": decode_arguments(block.input)}
                calls.append({"id": block.id, "type": "function", "function": function})
            elif isinstance(block, ThinkingBlock):
                thoughts.append(block.thinking)
            elif isinstance(block, TextBlock):
                texts.append(block.text)
            elif not isinstance(block, RedactedThinkingBlock):
                raise _misplaced(block, message.role, where)
        rendered: Message = {"role": "assistant", "content": between.join(texts)}
        if thought := "\n".join(thoughts):
            rendered["reasoning_content"] = thought
        if calls:
            rendered["tool_calls"] = calls
        return rendered

    def _result(self, block: ToolResultBlock, path: str) -> Message:
        content = block.content or ""
        if not isinstance(content, str):
            content = "\n".join(_text(part, f"{path}.content[{index}]") for index, part in enumerate(content))
        if block.is_error:
            content = f"Error: {content}"
        message: Message = {"role": "tool", "content": content, "tool_call_id": block.tool_use_id}
        if (name := self._called.get(block.tool_use_id)) is not None:
            message["name"] = name
        return message

    def _append(self, message: Message, place: str) -> None:
        """Add the message; neighbours of one role are one turn, because many templates want roles to alternate."""
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != message["role"] or message["role"] not in ("user", "assistant"):
            self.messages.append(message)
            self.places.append(place)
            return
        for name in ("content", "reasoning_content"):
            if text := message.get(name):
                last[name] = f"{last[name]}\n{text}" if last.get(name) else text
        if calls := message.get("tool_calls"):
            last["tool_calls"] = [*last.get("tool_calls", ()), *calls]


def continues(message: InputMessage, path: str) -> bool:
    """Whether the reply continues the last message, which is then the assistant's. Raises InvalidRequest."""
    if message.role != "assistant":
        return False
    for block, where in _blocks(message, path):
        if not isinstance(block, TextBlock):
            raise InvalidRequest(
                f"'{where}': the beginning of a reply can only be text; after a tool call the next message is the "
                "user's, with its result.",
                param=where,
            )
    return True


def _blocks(message: InputMessage, path: str) -> list[tuple[Any, str]]:
    """The content's blocks and where they stand."""
    if isinstance(message.content, str):
        return [(TextBlock(message.content), f"{path}.content")] if message.content else []
    return [(block, f"{path}.content[{index}]") for index, block in enumerate(message.content)]


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
