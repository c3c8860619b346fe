"""The grammar of calls with an element for each argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailrace.chat.argument_types import ArgumentSchema, FunctionSchema
from tailrace.chat.lark_builder import LarkBuilder, escape_regex
from tailrace.chat.schemas.keywords import ARRAY_KEYWORDS, NUMBER_KEYWORDS, OBJECT_KEYWORDS, STRING_KEYWORDS, Schema
from tailrace.chat.tool_parsers.value_scanner import early_end_patterns
from tailrace.chat.tool_parsers.xml_call_tags import XmlCallTags
from tailrace.chat.tools import Function
from tailrace.chat.xml_string_grammar import string_terminal

#: Keywords of an object's schema whose members can be elements.
_OBJECT = frozenset({"type", "properties", "required", "additionalProperties", "$defs", "x-guidance"})
#: Alternatives of one value, nested ones included.
_MAX_ALTERNATIVES = 64
#: Elements that an object may have beside those that its schema names.
_MAX_OTHERS = 16
_OTHER_NAME = "[A-Za-z_][A-Za-z0-9_.-]{0,63}"
#: A name that no schema has: it stands for all unnamed arguments.
_NO_NAME = "\0"


def element_call(
    function: Function, lark: LarkBuilder, tags: XmlCallTags, heads: Sequence[str], tails: Sequence[str]
) -> str | None:
    """The call, with ``heads`` before its first argument and ``tails`` after its last, on lines of their own. None
    where elements can't express the schema: then the call has to be JSON.
    """
    schema = function.normalized_schema()
    definitions: Schema = schema.get("$defs", {})
    if "$ref" in schema:
        schema = _target(schema, definitions) or {}
    alternatives = next((schema[key] for key in ("anyOf", "oneOf") if key in schema), [schema])
    elements = _Elements(FunctionSchema(function.parameters), definitions, lark, tags)
    bodies: dict[str, None] = {}
    for alternative in alternatives:
        body = elements.of(alternative) if isinstance(alternative, dict) else None
        if body is None:
            return None
        bodies[body] = None
    gap = lark.gap("\n")
    before, after = (f" {gap} ".join(map(lark.literal, marks)) for marks in (heads, tails))
    return f"{before} {gap} ({' | '.join(bodies)}) {after}"


class _Elements:
    """Writes the elements of one function's arguments."""

    def __init__(self, arguments: FunctionSchema, definitions: Schema, lark: LarkBuilder, tags: XmlCallTags) -> None:
        self._arguments = arguments
        self._definitions = definitions
        self._lark = lark
        self._tags = tags
        self._line = "\n" if tags.own_lines else ""

    def of(self, schema: Schema) -> str | None:
        """All elements of an object, in the schema's order."""
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        if set(schema) - _OBJECT or not set(required) <= set(properties):
            return None
        parts = ['""']
        for name, value in properties.items():
            if value is False:
                continue
            if not name or any(mark in name for mark in "<>\n") or name != name.strip():
                return None
            inner = self._value(value, name)
            if inner is None:
                return None
            element = self._element(self._lark.literal(name), inner)
            parts.append(element if name in required else f"({element})?")
        others = schema.get("additionalProperties", False)
        if others is not False:
            inner = self._value(others, _NO_NAME)
            if inner is None:
                return None
            names = f"/{_OTHER_NAME}/"
            if self._arguments.names:
                names += f" & ~/({'|'.join(map(escape_regex, sorted(self._arguments.names)))})/"
            parts.append(f"({self._element(self._lark.terminal('name', names), inner)}){{0,{_MAX_OTHERS}}}")
        return " ".join(parts)

    def _element(self, name: str, value: str) -> str:
        lark, tags = self._lark, self._tags
        between = lark.gap("\n") if not tags.own_lines else ""
        opens = f"{lark.literal(tags.key_start)} {name} {lark.literal(tags.key_end)}"
        return f"{opens} {between} {lark.literal(tags.value_start + self._line)} {value} {lark.gap(chr(10))}"

    def _value(self, schema: Any, name: str) -> str | None:
        """A value and its closing tag. The parser reads it as a type that the schema admits: text as a string where one
        is admitted, other types as JSON.
        """
        argument = self._arguments.argument(name)
        alternatives = self._alternatives(schema, 0)
        if alternatives is None:
            return None
        ends = self._lark.literal(self._line + self._tags.value_end)
        texts = [alternative for alternative in alternatives if alternative.get("type") == "string"]
        if "string" not in argument.types:
            found = [self._json(alternative) for alternative in alternatives if alternative not in texts]
            return f"({' | '.join(dict.fromkeys(found))}) {ends}" if found else None
        # The parser would read a number or a boolean beside a string as a string.
        found = [self._json(other) for other in alternatives if other.get("type") in ("array", "object")]
        if any(alternative.get("type") == "null" for alternative in alternatives):
            found.append(self._lark.literal("null"))
        found = [f"{inner} {ends}" for inner in found]
        for text in texts:
            written = self._text(text, argument, name)
            if written is None:
                return None
            found += [written] if written else []
        return f"({' | '.join(dict.fromkeys(found))})" if found else None

    def _text(self, schema: Schema, argument: ArgumentSchema, name: str) -> str | None:
        """A string without quotes and its closing tag; "" for a string that needs quotes, None where a grammar can't
        express its schema.
        """
        lark, tags = self._lark, self._tags
        ends = lark.literal(self._line + tags.value_end)
        if "enum" in schema:
            values = [value for value in schema["enum"] if not _is_ambiguous(value, tags)]
            return f"({' | '.join(map(lark.literal, values))}) {ends}" if values else ""
        # Text that begins like a list or an object is parsed as one, where the schema admits one.
        containers = bool(argument.types & {"array", "object"})
        if set(schema) == {"type"}:
            begun = r"[ \t\r\n]*[\[{]" if containers else None
            excluded = early_end_patterns(tags, sorted(self._arguments.names - {name}))
            return lark.until(tags.value_end, excluded, not_begun=begun)
        terminal = string_terminal(schema, containers=containers)
        return None if terminal is None else f"{lark.terminal('text', terminal)} {ends}"

    def _json(self, schema: Schema) -> str:
        return self._lark.schema({**schema, "$defs": self._definitions} if self._definitions else schema)

    def _alternatives(self, schema: Any, level: int) -> list[Schema] | None:
        """The schema as alternatives of one type each. Listed strings have type string."""
        if not isinstance(schema, dict) or level > 16:
            return None
        if "$ref" in schema:
            target = _target(schema, self._definitions)
            return None if target is None else self._alternatives(target, level + 1)
        if "allOf" in schema:
            return None
        for key in ("anyOf", "oneOf"):
            if key in schema:
                if set(schema) - {key, "type"}:
                    return None
                gathered: list[Schema] = []
                for part in schema[key]:
                    inner = self._alternatives(part, level + 1)
                    if inner is None or len(gathered) + len(inner) > _MAX_ALTERNATIVES:
                        return None
                    gathered += inner
                return gathered
        if "enum" in schema or "const" in schema:
            return _listed(schema["enum"] if "enum" in schema else [schema["const"]])
        kinds = schema.get("type")
        return [_of_type(schema, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds or ())] or None


def _target(schema: Schema, definitions: Schema) -> Schema | None:
    found = definitions.get(str(schema["$ref"]).removeprefix("#/$defs/"))
    return found if isinstance(found, dict) else None


def _listed(values: list[Any]) -> list[Schema]:
    strings = [value for value in values if isinstance(value, str)]
    others = [value for value in values if not isinstance(value, str) and value is not None]
    found: list[Schema] = [{"type": "string", "enum": strings}] if strings else []
    found += [{"type": "null"}] if None in values else []
    return [*found, {"enum": others}] if others else found


#: Keywords for values of one type.
_KEYWORDS_OF = {
    "string": STRING_KEYWORDS,
    "object": OBJECT_KEYWORDS,
    "array": ARRAY_KEYWORDS,
    "integer": NUMBER_KEYWORDS,
    "number": NUMBER_KEYWORDS,
}


def _of_type(schema: Schema, kind: str) -> Schema:
    return {"type": kind, **{key: schema[key] for key in _KEYWORDS_OF.get(kind, ()) if key in schema}}


def _is_ambiguous(value: str, tags: XmlCallTags) -> bool:
    """Whether a listed text needs quotes, or would be parsed as another value."""
    return not value or value != value.strip() or tags.value_end in value or value in ("null", "None")
