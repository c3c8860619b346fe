"""The items of a conversation, as clients send them and get them back.

An input item is stored as the JSON object that was received; ``parse_item`` parses it. Unknown types are refused by
name.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Any, Literal

import msgspec

from tailrace.errors import InvalidRequest
from tailrace.server.json_body import convert

#: An item as JSON.
Item = dict[str, Any]

#: The prefix of this server's ``encrypted_content``. Base64 follows: the client may see the text anyway.
_OWN_PREFIX = "tailrace1."


class TextPart(msgspec.Struct):
    """A content part. ``type`` decides which fields it has."""

    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | list[TextPart]


class MessageItem(msgspec.Struct):
    """A message; the short form has no ``type``."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None


class CallItem(msgspec.Struct):
    """The model's call of a function."""

    name: str
    call_id: str
    arguments: Any = None
    namespace: str | None = None


class CustomCallItem(msgspec.Struct):
    """The model's call of a custom tool, with free text as its input."""

    name: str
    call_id: str
    input: str
    namespace: str | None = None


class CallOutputItem(msgspec.Struct):
    """The result of a call."""

    call_id: str
    output: Content


class ReasoningItem(msgspec.Struct):
    """The model's reasoning before its reply."""

    summary: list[TextPart] = []
    content: list[TextPart] | None = None
    encrypted_content: str | None = None

    @property
    def text(self) -> str:
        """The reasoning: its text, the text in this server's ``encrypted_content``, or its summary."""
        text = "\n".join(part.text or "" for part in self.content or ())
        return text or _decode_reasoning(self.encrypted_content) or "\n".join(part.text or "" for part in self.summary)


class ReferenceItem(msgspec.Struct):
    """A reference to a stored item."""

    id: str


ParsedItem = MessageItem | CallItem | CustomCallItem | CallOutputItem | ReasoningItem | ReferenceItem

#: Types of items that can be used.
ITEM_TYPES: dict[str, type[ParsedItem]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "custom_tool_call": CustomCallItem,
    "function_call_output": CallOutputItem,
    "custom_tool_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": ReferenceItem,
}

#: Prefixes of the ids of items, as clients know them.
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "function_call_output": "fco",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "conversation": "conv",
}


def item_type(item: Item) -> object:
    """The item's type, which the short forms of messages and references leave out."""
    if (given := item.get("type")) is not None:
        return given
    return "item_reference" if "role" not in item and "id" in item else "message"


def parse_item(item: Item, path: str) -> ParsedItem:
    """Parse the item at ``path``. Raises InvalidRequest."""
    name = item_type(item)
    known = ITEM_TYPES.get(name) if isinstance(name, str) else None
    if known is None:
        raise InvalidRequest(f"'{path}': items of type {quoted(name)} can't be used here.", param=f"{path}.type")
    if not isinstance(item.get("id"), str | None):
        raise InvalidRequest(f"Invalid value for '{path}.id': it has to be a string.", param=f"{path}.id")
    read: ParsedItem = convert({key: value for key, value in item.items() if value is not None}, known, path)
    return read


def content_text(content: Content | None, path: str) -> str:
    """A content as text. Raises InvalidRequest for parts that aren't text."""
    if content is None or isinstance(content, str):
        return content or ""
    texts: list[str] = []
    for index, part in enumerate(content):
        where = f"{path}[{index}]"
        if part.type in ("input_text", "output_text", "text", "summary_text"):
            if part.text is None:
                raise InvalidRequest(f"'{where}.text' is missing.", param=f"{where}.text")
            texts.append(part.text)
        elif part.type == "refusal":
            texts.append(part.refusal or "")
        else:
            raise InvalidRequest(
                f"This model reads text alone; a part of type {quoted(part.type)} can't be used.", param=where
            )
    return "\n".join(texts)


def quoted(value: object) -> str:
    """A client's value as an error may repeat it."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def new_id(name: str) -> str:
    """A new id for an item of that type, or for a response (``resp``) or a conversation; it can't be guessed."""
    return f"{_PREFIXES.get(name, name)}_{secrets.token_hex(24)}"


def with_type_and_id(item: Item) -> Item:
    """The item in its stored form: with a type and an id."""
    name = str(item_type(item))
    return {**item, "id": item.get("id") or new_id(name), "type": name}


def as_listed(item: Item) -> Item:
    """A stored item in the API's list form: text in parts, and a status."""
    name = item_type(item)
    complete = {key: value for key, value in item.items() if value is not None}
    complete |= {"type": name, "status": complete.get("status") or "completed"}
    if name == "message":
        of_model = item.get("role") == "assistant"
        complete["content"] = _parts(item.get("content"), "output_text" if of_model else "input_text")
    elif name == "reasoning":
        complete |= {"summary": item.get("summary") or []}
    elif name == "function_call":
        arguments = item.get("arguments")
        complete["arguments"] = (
            arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
        )
    elif name in ("function_call_output", "custom_tool_call_output"):
        output = item.get("output")
        complete["output"] = output or "" if isinstance(output, str | None) else _parts(output, "input_text")
    elif name in ("additional_tools", "mcp_approval_request", "mcp_approval_response", "mcp_list_tools"):
        del complete["status"]
    return complete


def _parts(content: Any, kind: str) -> list[dict[str, Any]]:
    """A content as parts, of which those of text are of ``kind``."""
    given = [{"text": content}] if isinstance(content, str) else content or []
    parts = []
    for part in given:
        if part.get("type", "text") in ("text", "input_text", "output_text"):
            part = {**part, "type": kind}
            if kind == "output_text":
                part = {"annotations": [], "logprobs": [], **part}
        parts.append(part)
    return parts


def encode_reasoning(reasoning: str) -> str:
    """The ``encrypted_content`` of the reasoning."""
    return _OWN_PREFIX + base64.b64encode(reasoning.encode()).decode()


def _decode_reasoning(content: str | None) -> str:
    """The reasoning in ``encrypted_content``; empty for another server's."""
    if content is None or not content.startswith(_OWN_PREFIX):
        return ""
    try:
        return base64.b64decode(content[len(_OWN_PREFIX) :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
