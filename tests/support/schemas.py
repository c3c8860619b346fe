"""Random JSON schemas of bounded length, for strict replies. The same seed gives the same schema."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

_WORDS = (
    "name",
    "age",
    "city",
    "colour",
    "price",
    "tags",
    "note",
    "id",
    "score",
    "items",
    "kind",
    "when",
    "owner",
    "size",
)
_PATTERNS = (
    "^[A-Z]{2}-[0-9]{4}$",
    "^(red|green|blue)$",
    "^[a-z]{1,8}@[a-z]{1,8}\\.org$",
    "^[0-9a-f]{8}$",
    "^v[0-9]\\.[0-9]$",
)
_FORMATS = ("date", "time", "date-time", "uuid", "ipv4", "email")

Schema = dict[str, Any]


def random_schema(seed: int) -> Schema:
    """An object's schema."""
    dice = random.Random(seed)
    schema = _object(dice, 3)
    if dice.random() < 0.3:
        # The same shape twice by reference, as generated schemas have it.
        schema["$defs"] = {"shared": _object(dice, 1)}
        schema["properties"] |= {"first": {"$ref": "#/$defs/shared"}, "second": {"$ref": "#/$defs/shared"}}
        schema["required"] += ["first", "second"]
    return schema


def longest(schema: Schema, shared: Schema | None = None) -> int:
    """Bytes of the longest JSON that one of the schemas above allows, or more."""
    shared = schema.get("$defs", {}).get("shared", shared)
    below = functools.partial(longest, shared=shared)
    if "$ref" in schema:
        return below(shared or {})
    if "anyOf" in schema:
        return max(map(below, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return max(len(json.dumps(value)) for value in schema.get("enum", [schema.get("const")]))
    kind = schema["type"]
    if kind == "object":
        return 2 + sum(len(name) + 6 + below(value) for name, value in schema["properties"].items())
    if kind == "array":
        return 2 + int(schema["maxItems"]) * (2 + below(schema["items"]))
    if kind == "string" or "string" in kind:
        # Patterns here are of less than 30 characters; each of a string's may be an escape of six.
        return 2 + 6 * int(schema.get("maxLength", 30))
    return 12  # A number, or a word.


def _object(dice: random.Random, depth: int) -> Schema:
    names = dice.sample(_WORDS, dice.randint(1, 4))
    return {
        "type": "object",
        "properties": {name: _any(dice, depth - 1) for name in names},
        "required": [name for name in names if dice.random() < 0.7],
        "additionalProperties": False,
    }


def _any(dice: random.Random, depth: int) -> Schema:
    makers = [_string, _string, _pattern, _format, _integer, _number, _enum, _constant, _boolean, _nullable]
    if depth > 0:
        makers += [_object_below, _object_below, _array, _array, _union]
    return dice.choice(makers)(dice, depth)


def _string(dice: random.Random, depth: int) -> Schema:
    least = dice.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + dice.randint(1, 16)}


def _pattern(dice: random.Random, depth: int) -> Schema:
    return {"type": "string", "pattern": dice.choice(_PATTERNS)}


def _format(dice: random.Random, depth: int) -> Schema:
    return {"type": "string", "format": dice.choice(_FORMATS), "maxLength": 40}


def _integer(dice: random.Random, depth: int) -> Schema:
    least = dice.randint(-1000, 1000)
    schema: Schema = {"type": "integer", "minimum": least, "maximum": least + dice.randint(0, 5000)}
    if dice.random() < 0.3:
        return {"type": "integer", "exclusiveMinimum": least, "exclusiveMaximum": least + dice.randint(2, 90)}
    if dice.random() < 0.2:
        return {"type": "integer", "multipleOf": dice.choice((2, 5, 10)), "minimum": 0, "maximum": 1000}
    return schema


def _number(dice: random.Random, depth: int) -> Schema:
    least = round(dice.uniform(-50, 50), 2)
    most = round(least + dice.uniform(0.5, 500), 2)
    # A step bounds the digits behind the point. It is a power of two, by which validators divide exactly.
    return {"type": "number", "minimum": least, "maximum": most, "multipleOf": dice.choice((0.5, 0.25, 0.125))}


def _enum(dice: random.Random, depth: int) -> Schema:
    return {
        "enum": dice.sample(
            ["red", "green", "dark blue", 'a "quoted" one', "é", 1, -2.5, True, None], dice.randint(1, 5)
        )
    }


def _constant(dice: random.Random, depth: int) -> Schema:
    return {"const": dice.choice(("fixed", 7, False, {"deep": [1, "x"]}))}


def _boolean(dice: random.Random, depth: int) -> Schema:
    return {"type": "boolean"}


def _nullable(dice: random.Random, depth: int) -> Schema:
    return {"type": ["string", "null"], "maxLength": 8}


def _object_below(dice: random.Random, depth: int) -> Schema:
    return _object(dice, depth)


def _array(dice: random.Random, depth: int) -> Schema:
    least = dice.randint(0, 2)
    return {"type": "array", "items": _any(dice, depth - 1), "minItems": least, "maxItems": least + dice.randint(0, 2)}


def _union(dice: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(dice, depth - 1) for _ in range(dice.randint(2, 3))]}
