"""Translates Anthropic's messages into the chat template's: content is a string, tool results are separate messages.

Blocks that the model can't read are refused, with their path."""

from __future__ import annotations

from typing import Any

from tailrace.chat.call_arguments import decode_arguments
from tailrace.chat.messages import Message
from tailrace.errors import InvalidRequest
from tailrace.server.dialects.anthropic.content_blocks import (
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

#: Claude Code's accounting, which isn't meant for the model. It may change with each request, and at the start of the
#: prompt it would defeat the prefix cache.
_ACCOUNTING = "x-anthropic-billing-header:"


def system_text(system: str | list[TextBlock] | None) -> str:
    """The system prompt, empty without one."""
    if isinstance(system, str):
        return system
    return "\n".join(block.text for block in system or () if not block.text.startswith(_ACCOUNTING))


class MessageHistory:
    """The messages for ``chat_request``. ``paths`` has the request's field of each message."""

    def __init__(self, messages: list[InputMessage]) -> None:
        """Raises InvalidRequest."""
        self.messages: list[Message] = []
        self.paths: list[str] = []
        self._called: dict[str, str] = {}  #: each call's tool, by the call's id
        #: Texts of the last message, by field, that are joined when it is complete: joining them one by one takes time
        #: in proportion to their square.
        self._texts: dict[str, list[str]] = {}
        for index, message in enumerate(messages):
            path = f"messages[{index}]"
            if message.role == "assistant":
                # The blocks of a continued reply are joined directly; those of earlier replies become lines.
                between = "\n" if index < len(messages) - 1 else ""
                self._append(self._assistant(message, path, between), path)
            else:
                self._read(message, path)
        self._join_texts()

    def prepend_system(self, system: str) -> None:
        """Put the system prompt in front."""
        self.messages.insert(0, {"role": "system", "content": system})
        self.paths.insert(0, "system")

    def drop_old_reasoning(self, turns: int) -> None:
        """Remove reasoning from all messages but the last ``turns`` that have it."""
        for message in [m for m in self.messages if "reasoning_content" in m][:-turns]:
            del message["reasoning_content"]

    def _read(self, message: InputMessage, path: str) -> None:
        """A message of the user or the system: tool results first, then its text."""
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
        reasoning: list[str] = []
        texts: list[str] = []
        calls: list[dict[str, Any]] = []
        for block, where in _blocks(message, path):
            if isinstance(block, ToolUseBlock):
                self._called[block.id] = block.name
                function = {"name": block.name, "arguments": decode_arguments(block.input)}
                calls.append({"id": block.id, "type": "function", "function": function})
            elif isinstance(block, ThinkingBlock):
                reasoning.append(block.thinking)
            elif isinstance(block, TextBlock):
                texts.append(block.text)
            elif not isinstance(block, RedactedThinkingBlock):
                raise _misplaced(block, message.role, where)
        rendered: Message = {"role": "assistant", "content": between.join(texts)}
        if joined := "\n".join(reasoning):
            rendered["reasoning_content"] = joined
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

    def _append(self, message: Message, path: str) -> None:
        """Add the message. Successive messages of one role are merged, because many templates require alternating
        roles.
        """
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != message["role"] or message["role"] not in ("user", "assistant"):
            self._join_texts()
            self.messages.append(message)
            self.paths.append(path)
            return
        for name in ("content", "reasoning_content"):
            if text := message.get(name):
                self._texts.setdefault(name, [last[name]] if last.get(name) else []).append(text)
        if calls := message.get("tool_calls"):
            last.setdefault("tool_calls", []).extend(calls)

    def _join_texts(self) -> None:
        """Complete the last message."""
        for name, texts in self._texts.items():
            self.messages[-1][name] = "\n".join(texts)
        self._texts.clear()


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
    """The content's blocks with their paths."""
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
