"""The content blocks of a request's messages. ``messages`` translates them.

The prefix cache matches tokens, so ``cache_control`` only decides how a reply's usage is split. There are no
``citations``, because the server cites nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec


class TextBlock(msgspec.Struct, tag_field="type", tag="text"):
    """A text."""

    text: str
    cache_control: Any = None


class ImageBlock(msgspec.Struct, tag_field="type", tag="image"):
    """An image: known, and refused by models that can't see."""

    cache_control: Any = None


class TextSource(msgspec.Struct, tag_field="type", tag="text"):
    """A document's plain text."""

    data: str


class ContentSource(msgspec.Struct, tag_field="type", tag="content"):
    """A document in blocks."""

    content: str | list[TextBlock | ImageBlock]


class EncodedSource(msgspec.Struct, tag_field="type", tag="base64"):
    """A PDF: known, and refused."""


class UrlSource(msgspec.Struct, tag_field="type", tag="url"):
    """A URL: refused, because the server fetches nothing."""


class FileSource(msgspec.Struct, tag_field="type", tag="file"):
    """An uploaded file: known, and refused."""


class DocumentBlock(msgspec.Struct, tag_field="type", tag="document"):
    """A document; those that are text are read."""

    source: TextSource | ContentSource | EncodedSource | UrlSource | FileSource
    title: str | None = None
    context: str | None = None
    cache_control: Any = None


class SearchResultBlock(msgspec.Struct, tag_field="type", tag="search_result"):
    """A result of the client's own search."""

    source: str
    title: str
    content: list[TextBlock]
    cache_control: Any = None


class ToolReferenceBlock(msgspec.Struct, tag_field="type", tag="tool_reference"):
    """A tool that a client's tool search has found; its definition is in the prompt already."""

    tool_name: str
    cache_control: Any = None


class ThinkingBlock(msgspec.Struct, tag_field="type", tag="thinking"):
    """Earlier reasoning. Its signature is ignored."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(msgspec.Struct, tag_field="type", tag="redacted_thinking"):
    """Reasoning that only Anthropic can decrypt: dropped."""


class ToolUseBlock(msgspec.Struct, tag_field="type", tag="tool_use"):
    """An earlier tool call. ``input`` is an object; a truncated call may have any value."""

    id: str
    name: str
    input: Any = None
    cache_control: Any = None


ResultBlock = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock | ToolReferenceBlock


class ToolResultBlock(msgspec.Struct, tag_field="type", tag="tool_result"):
    """The result of a tool call."""

    tool_use_id: str
    content: str | list[ResultBlock] | None = None
    is_error: bool | None = None
    cache_control: Any = None


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ToolReferenceBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
)
