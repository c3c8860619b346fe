"""The grammar of calls that have an element for each argument."""

from __future__ import annotations

from typing import Any

from tailrace.chat.lark import Lark
from tailrace.chat.readers.tagged_call import Tags
from tailrace.chat.tools import Function

#: What says nothing about which values fit.
_REMARKS = frozenset({"title", "description", "default", "examples", "deprecated", "$comment", "readOnly", "writeOnly"})
#: What may stand in a function's schema for its arguments to be elements.
_OBJECT = frozenset({"type", "properties", "required", "additionalProperties", "$schema", "$defs", "definitions"})
#: Of a text's schema.
_TEXT = frozenset({"type", "minLength", "maxLength"})


def element_call(function: Function, lark: Lark, tags: Tags, head: str, tail: str) -> str | None:
    """The call, ``head`` before its first argument and ``tail`` behind its last. None where the schema says more than
    elements can be held to: then the call has to be JSON.
    """
    schema = function.schema()
    properties = schema.get("properties") or {}
    if set(schema) - _OBJECT - _REMARKS or not isinstance(properties, dict):
        return None
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    required = schema.get("required") or []
    if not set(required) <= set(properties):
        return None
    elements: list[str] = []
    for name, value in properties.items():
        if any(mark in name for mark in "<>\n") or name != name.strip():
            return None
        inner = _value(value, shared, lark, tags)
        if inner is None:
            return None
        line = "\n" if tags.lines else ""
        opening = f"{tags.key_opens}{name}{tags.key_ends}{'' if tags.lines else chr(10)}{tags.value_opens}{line}"
        element = f"{lark.literal(opening)} {inner} {lark.literal(chr(10))}"
        elements.append(element if name in required else f"({element})?")
    return f"{lark.literal(head)} {' '.join(elements)} {lark.literal(tail)}"


def _value(schema: object, shared: dict[str, Any], lark: Lark, tags: Tags) -> str | None:
    """A value and its closing tag."""
    if not isinstance(schema, dict):
        return None
    schema = {key: value for key, value in schema.items() if key not in _REMARKS}
    ends = lark.literal(tags.value_ends)
    line = "\n" if tags.lines else ""
    if "enum" in schema and set(schema) <= {"enum", "type"} and all(isinstance(v, str) for v in schema["enum"]):
        if any(tags.value_ends in value or value != value.strip() or not value for value in schema["enum"]):
            return None
        return f"({' | '.join(lark.literal(value) for value in schema['enum'])}) {lark.literal(line + tags.value_ends)}"
    if schema.get("type") == "string":
        if set(schema) - _TEXT:
            return None
        if set(schema) == {"type"}:
            return lark.until(tags.value_ends)
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        # Without the character that begins a tag, its length can be counted.
        return f"{lark.terminal('text', f'/[^<{chr(92)}n]{{{least},{most}}}/')} {lark.literal(line + tags.value_ends)}"
    if schema.get("type") in ("integer", "number", "boolean", "array", "object", "null"):
        return f"{lark.schema({**schema, **shared})} {lark.literal(line) if line else ''} {ends}"
    return None
