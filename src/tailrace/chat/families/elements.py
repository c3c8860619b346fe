"""The grammar of calls that have an element for each argument."""

from __future__ import annotations

from typing import Any

from tailrace.chat.argument_types import ALL, Argument, Arguments
from tailrace.chat.lark import Lark
from tailrace.chat.readers.tags import Tags
from tailrace.chat.readers.value_text import early_ends
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
    arguments = Arguments(function.parameters)
    elements: list[str] = []
    for name, value in properties.items():
        if any(mark in name for mark in "<>\n") or name != name.strip():
            return None
        others = arguments.names - {name}
        inner = _value(value, arguments.argument(name), others, shared, lark, tags)
        if inner is None:
            return None
        line = "\n" if tags.lines else ""
        opening = f"{tags.key_opens}{name}{tags.key_ends}{'' if tags.lines else chr(10)}{tags.value_opens}{line}"
        element = f"{lark.literal(opening)} {inner} {lark.literal(chr(10))}"
        elements.append(element if name in required else f"({element})?")
    return f"{lark.literal(head)} {' '.join(elements)} {lark.literal(tail)}"


def _value(
    schema: object, argument: Argument, others: frozenset[str], shared: dict[str, Any], lark: Lark, tags: Tags
) -> str | None:
    """A value and its closing tag, which are read back as what the schema admits: text as a string, other types as
    JSON. ``others`` are the function's other arguments.
    """
    if not isinstance(schema, dict) or argument.types == ALL:
        return None
    schema = {key: value for key, value in schema.items() if key not in _REMARKS}
    ends = lark.literal(tags.value_ends)
    line = "\n" if tags.lines else ""
    if "string" not in argument.types:
        return f"{lark.schema({**schema, **shared})} {lark.literal(line) if line else ''} {ends}"
    if argument.types - {"string", "null"}:
        return None
    if "enum" in schema and set(schema) <= {"enum", "type"}:
        if any(_is_ambiguous(value, tags) for value in schema["enum"]):
            return None
        values = " | ".join(lark.literal("null" if value is None else value) for value in schema["enum"])
        return f"({values}) {lark.literal(line + tags.value_ends)}"
    if _is_bare(schema):
        return lark.until(tags.value_ends, early_ends(tags, sorted(others)))
    if schema.get("type") == "string" and not set(schema) - _TEXT:
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        # Without the character that begins a tag, its length can be counted.
        return f"{lark.terminal('text', f'/[^<{chr(92)}n]{{{least},{most}}}/')} {lark.literal(line + tags.value_ends)}"
    return None


def _is_ambiguous(value: object, tags: Tags) -> bool:
    """Whether a listed value can't be written as bare text, or would be read as another."""
    if not isinstance(value, str):
        return value is not None
    return not value or value != value.strip() or tags.value_ends in value or value in ("null", "None")


def _is_bare(schema: dict[str, Any]) -> bool:
    """Whether the schema says of a string, or of a string or null, nothing but its type."""
    if set(schema) <= {"type", "nullable"}:
        return "type" in schema
    (key, parts), *rest = schema.items()
    return (
        not rest
        and key in ("anyOf", "oneOf")
        and all(isinstance(part, dict) and set(part) - _REMARKS == {"type"} for part in parts)
    )
