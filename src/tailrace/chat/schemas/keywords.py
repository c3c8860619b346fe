"""The keywords of JSON schemas, by what a grammar can do with them. Unlisted keywords are annotations."""

from __future__ import annotations

import re
from typing import Any

Schema = dict[str, Any]

OBJECT_KEYWORDS = frozenset(
    {"properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"}
)
ARRAY_KEYWORDS = frozenset({"items", "prefixItems", "minItems", "maxItems"})
STRING_KEYWORDS = frozenset({"pattern", "format", "minLength", "maxLength"})
NUMBER_KEYWORDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
CHOICE_KEYWORDS = frozenset({"anyOf", "oneOf"})
#: Keywords that a grammar can express.
SUPPORTED = (
    OBJECT_KEYWORDS
    | ARRAY_KEYWORDS
    | STRING_KEYWORDS
    | NUMBER_KEYWORDS
    | CHOICE_KEYWORDS
    | {"type", "enum", "const", "$ref", "allOf"}
)
#: Keywords that constrain, and that no grammar can express.
UNSUPPORTED = frozenset(
    {
        "not",
        "if",
        "contains",
        "uniqueItems",
        "propertyNames",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
    }
)
#: Formats of strings that a grammar can express. Others are annotations.
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown"}
)
#: Look-around and back references, which no automaton can match.
_IRREGULAR = re.compile(r"(?<!\\)(?:\\\\)*(?:\(\?(?:[=!]|<[=!])|\\[1-9]|\\k<)")
#: Keywords with counts, which some generators write as ``3.0``.
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})


def constrains(keyword: str, schema: Schema) -> bool:
    """Whether a keyword of ``UNSUPPORTED`` excludes any value in this schema."""
    value = schema[keyword]
    if keyword == "if":
        return "then" in schema or "else" in schema
    if keyword == "contains":
        return schema.get("minContains") != 0 or "maxContains" in schema
    if keyword == "unevaluatedItems":
        return value not in (True, {})
    if keyword == "propertyNames":
        return value not in (True, {}, {"type": "string"})
    return value not in (False, {}) if keyword in ("uniqueItems", "not") else value != {}


def is_regular(pattern: object) -> bool:
    """Whether a grammar can express the regular expression."""
    return isinstance(pattern, str) and _IRREGULAR.search(pattern) is None


#: Types of the keywords' values in a valid schema.
_VALUE_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("properties", "patternProperties"), dict),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems", "enum"), list),
    **dict.fromkeys(NUMBER_KEYWORDS | _COUNTS, (int, float)),
    **dict.fromkeys(("items", "additionalProperties"), (dict, bool)),
    **dict.fromkeys(("pattern", "$ref"), str),
    "type": (str, list),
}


def invalid_keyword(schema: Schema) -> str | None:
    """The first keyword whose value has a wrong type; None for none."""
    for key, value in schema.items():
        if key in _VALUE_TYPES and not isinstance(value, _VALUE_TYPES[key]):
            return key
        if key in ("required", "type") and isinstance(value, list) and not all(isinstance(name, str) for name in value):
            return key
    return None


def to_current_draft(schema: Schema) -> Schema:
    """The schema in the keywords of draft 2020-12, where older drafts differ."""
    changed = dict(schema)
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(changed.get(exclusive), bool) and changed.pop(exclusive) and bound in changed:
            changed[exclusive] = changed.pop(bound)
    if isinstance(changed.get("items"), list):
        changed["prefixItems"] = changed.pop("items")
        if "additionalItems" in changed:
            changed["items"] = changed["additionalItems"]
    for count in _COUNTS.intersection(changed):
        if isinstance(changed[count], float) and changed[count].is_integer():
            changed[count] = int(changed[count])
    if "required" in changed and not isinstance(changed["required"], list):
        del changed["required"]  # In draft 3 it is a boolean in the property itself.
    return _named_keys(changed)


def _named_keys(schema: Schema) -> Schema:
    """The schema with ``propertyNames`` as properties or patterns, where that is possible."""
    names = schema.get("propertyNames")
    if not isinstance(names, dict) or "patternProperties" in schema:
        return schema
    value = schema.get("additionalProperties", True)
    if value is False:
        return schema
    used = {key for key in names if key in SUPPORTED or key in UNSUPPORTED} - {"type"}
    known = schema.get("properties") or {}
    if used == {"pattern"} and is_regular(names["pattern"]) and not known:
        more: Schema = {"patternProperties": {names["pattern"]: value}}
    elif used <= {"enum", "const"} and used and isinstance(known, dict):
        allowed = names.get("enum", [names.get("const")])
        if not isinstance(allowed, list) or not set(known) <= {name for name in allowed if isinstance(name, str)}:
            return schema
        more = {"properties": {**{name: value for name in allowed if isinstance(name, str)}, **known}}
    else:
        return schema
    rest = {key: inner for key, inner in schema.items() if key != "propertyNames"}
    return {**rest, **more, "additionalProperties": False}
