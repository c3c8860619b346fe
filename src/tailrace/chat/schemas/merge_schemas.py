"""Merges schemas that apply together (``allOf``, a ``$ref`` with keywords beside it) into one."""

from __future__ import annotations

from typing import Any

from tailrace.chat.schemas.keywords import Schema

_GREATER = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})
_LESSER = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})
_MEMBERS = ("properties", "additionalProperties", "patternProperties")


def merge_schemas(first: Schema, second: Schema) -> Schema:
    """A schema that allows just the values that both allow. Keywords that can't be merged go into ``allOf``."""
    result = {**first}
    beside: list[Schema] = list(first.get("allOf") or ())
    for key, value in second.items():
        if key in _MEMBERS:
            continue
        if key == "allOf":
            beside += value
        elif key not in result or result[key] == value:
            result[key] = value
        elif (joined := _merged_value(key, result[key], value)) is not None:
            result[key] = joined[0]
        else:
            beside.append({key: value})
    result.update(_members(first, second))
    if beside:
        result["allOf"] = beside
    return result


def _merged_value(key: str, first: Any, second: Any) -> tuple[Any] | None:
    """One value for both, in a tuple; None where there is none."""
    if key == "required":
        return ([*first, *(name for name in second if name not in first)],)
    if key == "type":
        return (_types(first, second),)
    if key == "enum":
        return ([value for value in first if value in second],)
    if key == "items":
        return (schema_of_both(first, second),)
    numbers = isinstance(first, int | float) and isinstance(second, int | float)
    if key in _GREATER and numbers:
        return (max(first, second),)
    if key in _LESSER and numbers:
        return (min(first, second),)
    # Of two annotations one is enough.
    return None if key in ("anyOf", "oneOf", "pattern", "format", "multipleOf", "const", "not", "if") else (first,)


def _types(first: Any, second: Any) -> Any:
    left = [first] if isinstance(first, str) else first
    right = [second] if isinstance(second, str) else second
    common = [kind for kind in left if kind in right or (kind == "integer" and "number" in right)]
    common += [kind for kind in right if kind == "integer" and "number" in left and kind not in common]
    return common[0] if len(common) == 1 else common


def _members(first: Schema, second: Schema) -> Schema:
    """The keywords of both schemas for an object's members."""
    result: Schema = {}
    names = {**(first.get("properties") or {}), **(second.get("properties") or {})}
    properties = {
        name: schema_of_both(_member(first, name), _member(second, name))
        for name in names
        if not (_excludes(first, name) or _excludes(second, name))
    }
    if properties or "properties" in first or "properties" in second:
        result["properties"] = properties
    patterns = dict(first.get("patternProperties") or {})
    for pattern, value in (second.get("patternProperties") or {}).items():
        patterns[pattern] = schema_of_both(patterns[pattern], value) if pattern in patterns else value
    if patterns:
        result["patternProperties"] = patterns
    others = [schema["additionalProperties"] for schema in (first, second) if "additionalProperties" in schema]
    if others:
        result["additionalProperties"] = others[0] if len(others) == 1 else schema_of_both(*others)
    return result


def _member(schema: Schema, name: str) -> Any:
    properties = schema.get("properties") or {}
    if name in properties:
        return properties[name]
    return True if schema.get("patternProperties") else schema.get("additionalProperties", True)


def _excludes(schema: Schema, name: str) -> bool:
    return (
        schema.get("additionalProperties") is False
        and not schema.get("patternProperties")
        and name not in (schema.get("properties") or {})
    )


def schema_of_both(first: Any, second: Any) -> Any:
    """A schema of the values that both allow, not merged yet."""
    if first == second or second in (True, {}):
        return first
    if first in (True, {}):
        return second
    if first is False or second is False:
        return False
    return {"allOf": [first, second]}
