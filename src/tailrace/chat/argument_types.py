"""The JSON types that a function's schema admits for an argument, and the values that it lists.

Some families write arguments as bare text: then the schema alone tells the type. The types are an upper bound: a schema
that can't be resolved admits all types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tailrace.chat.schemas.json_pointer import at_pointer

#: Every JSON type. An integer is a number too.
ALL_TYPES = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})
#: Schemas that are visited for one argument: references may form loops.
_MAX_SCHEMAS = 2000
_MAX_LEVELS = 64

#: Names of types in JSON Schema and in tools' schemas, by their beginnings.
_TYPE_NAMES = (
    ("str", {"string"}),
    ("text", {"string"}),
    ("varchar", {"string"}),
    ("char", {"string"}),
    ("enum", {"string"}),
    ("int", {"integer"}),
    ("uint", {"integer"}),
    ("long", {"integer"}),
    ("short", {"integer"}),
    ("unsigned", {"integer"}),
    ("num", {"number", "integer"}),
    ("float", {"number", "integer"}),
    ("double", {"number", "integer"}),
    ("bool", {"boolean"}),
    ("binary", {"boolean"}),
    ("null", {"null"}),
    ("none", {"null"}),
    ("arr", {"array"}),
    ("list", {"array"}),
    ("obj", {"object"}),
    ("dict", {"object"}),
)


class ArgumentSchema(msgspec.Struct, frozen=True):
    """The admitted types, and ``choices``: the values that the schema lists, at any depth."""

    types: frozenset[str] = ALL_TYPES
    choices: tuple[Any, ...] = ()


def json_type_of(value: object) -> str:
    """The JSON type of a decoded value; an integer for a number without a fraction."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "array" if isinstance(value, list) else "object"


class FunctionSchema:
    """The schemas of one function's arguments."""

    def __init__(self, parameters: Mapping[str, Any] | None) -> None:
        self._root = parameters or {}
        self._visited = 0
        self._types: dict[str, frozenset[str]] = {}  #: by resolved reference
        self._choices: list[Any] = []
        self._properties: dict[str, list[Any]] = {}
        self._others: list[Any] = []
        self._gather(self._root, 0)

    @property
    def names(self) -> frozenset[str]:
        """The arguments' names in the schema."""
        return frozenset(self._properties)

    def argument(self, name: str) -> ArgumentSchema:
        """The admitted types and values of the argument."""
        schemas = self._properties.get(name) or [other for other in self._others if isinstance(other, dict)]
        if not schemas:
            return ArgumentSchema()
        self._visited, self._choices, self._types = 0, [], {}
        types = frozenset[str]().union(*(self._admitted(schema, 0) for schema in schemas))
        return ArgumentSchema(types or ALL_TYPES, tuple(self._choices))

    def _gather(self, schema: Any, level: int) -> None:
        """Gather the object's properties, those of its subschemas included."""
        self._visited += 1
        if not isinstance(schema, Mapping) or level > _MAX_LEVELS or self._visited > _MAX_SCHEMAS:
            return
        properties = schema.get("properties")
        for name, value in properties.items() if isinstance(properties, dict) else ():
            self._properties.setdefault(name, []).append(value)
        self._others.append(schema.get("additionalProperties"))
        for part in self._subschemas(schema):
            self._gather(part, level + 1)

    def _subschemas(self, schema: Mapping[str, Any]) -> list[Any]:
        parts = [part for key in ("allOf", "anyOf", "oneOf") for part in _list(schema.get(key))]
        if isinstance(reference := schema.get("$ref"), str):
            parts.append(self._resolved(reference))
        return parts

    def _admitted(self, schema: Any, level: int) -> frozenset[str]:
        self._visited += 1
        if not isinstance(schema, dict) or level > _MAX_LEVELS or self._visited > _MAX_SCHEMAS:
            return ALL_TYPES
        types = _types_of_keyword(schema.get("type"))
        listed = schema["enum"] if isinstance(schema.get("enum"), list) else []
        listed = [*listed, schema["const"]] if "const" in schema else listed
        if listed:
            types &= frozenset(map(json_type_of, listed))
            self._choices += listed
        if isinstance(reference := schema.get("$ref"), str):
            types &= self._referred(reference, level)
        for part in _list(schema.get("allOf")):
            types &= self._admitted(part, level + 1)
        for key in ("anyOf", "oneOf"):
            if parts := _list(schema.get(key)):
                types &= frozenset[str]().union(*(self._admitted(part, level + 1) for part in parts))
        return types | {"null"} if schema.get("nullable") is True else types

    def _referred(self, reference: str, level: int) -> frozenset[str]:
        if reference not in self._types:
            self._types[reference] = frozenset()  # A loop admits no more types.
            self._types[reference] = self._admitted(self._resolved(reference), level + 1)
        return self._types[reference]

    def _resolved(self, reference: str) -> Any:
        """The target of a reference within the schema; None for others."""
        return at_pointer(self._root, reference[1:]) if reference.startswith("#") else None


def _types_of_keyword(type_keyword: object) -> frozenset[str]:
    """The types that ``type`` names; all of them where it names no known one."""
    names = type_keyword if isinstance(type_keyword, list) else [type_keyword]
    types: set[str] = set()
    for name in names:
        word = name.strip().lower() if isinstance(name, str) else ""
        types.update(next((kinds for begins, kinds in _TYPE_NAMES if word.startswith(begins)), ()))
    return frozenset(types) or ALL_TYPES


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
