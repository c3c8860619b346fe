"""Schemas in the form that a grammar holds: objects close, annotations go, numbers end, and what can't be held."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest
from llguidance import LLTokenizer

from tailrace.chat.schemas.normalize import SchemaError, normalize_schema
from tailrace.engine.backends.fake import END, FakeBackend
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.generation_params import Grammar

BACKEND = FakeBackend(ctx=256, parallel=2, kv_tokens=0, batch=64)


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return make_tokenizer(BACKEND.vocabulary, [END], None)


def allows(tokenizer: LLTokenizer, schema: object, text: str, *, strict: bool = False) -> bool:
    grammar = Grammar(kind="json_schema", text=json.dumps(schema), strict=strict)
    matcher = compile_grammar(tokenizer, translate(grammar))
    tokens = list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def write(tokenizer: LLTokenizer, schema: object, dice: random.Random) -> str:
    """Random JSON that the grammar allows, in which ends are preferred."""
    matcher = compile_grammar(tokenizer, translate(Grammar(kind="json_schema", text=json.dumps(schema))))
    tokens: list[int] = []
    while not matcher.is_stopped():
        mask = matcher.compute_bitmask()
        allowed = [token for token in range(END + 1) if mask[token // 8] >> token % 8 & 1]
        if END in allowed:
            break
        ends = [token for token in allowed if token in b'"}],']
        plain = [token for token in allowed if 32 <= token < 127 and token != ord("\\")]
        tokens.append(dice.choice(ends if ends and dice.random() < 0.5 else plain or allowed))
        matcher.consume_token(tokens[-1])
        assert len(tokens) < 4000, bytes(tokens)
    return bytes(tokens).decode()


#: As schemars writes a Rust struct.
SCHEMARS = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Order",
    "type": "object",
    "required": ["id", "lines", "state"],
    "properties": {
        "id": {"type": "integer", "format": "uint32", "minimum": 0.0},
        "note": {"type": ["string", "null"], "maxLength": 9},
        "lines": {"type": "array", "items": {"$ref": "#/definitions/Line"}, "maxItems": 2.0},
        "state": {
            "oneOf": [
                {"type": "string", "enum": ["Open"]},
                {"description": "Shut.", "type": "string", "enum": ["Shut"]},
            ]
        },
    },
    "definitions": {
        "Line": {
            "type": "object",
            "required": ["price", "next"],
            "properties": {
                "price": {"type": "number", "format": "double"},
                "next": {"anyOf": [{"$ref": "#/definitions/Code"}, {"type": "null"}]},
            },
        },
        "Code": {"type": "string", "format": "regex", "maxLength": 4},
    },
}
#: As langchain4j and LangChain write one: no word of other properties.
LANGCHAIN = {
    "type": "object",
    "title": "Person",
    "description": "A person.",
    "properties": {
        "name": {"type": "string", "title": "Name", "maxLength": 8},
        "age": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None, "examples": [3]},
    },
    "required": ["name", "age"],
}
#: As zod-to-json-schema writes an intersection and a record.
ZOD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}}, "required": ["a"]},
        {
            "type": "object",
            "properties": {"b": {"type": "boolean"}, "c": {"$ref": "#/allOf/0/properties/a"}},
            "required": ["b", "c"],
        },
    ],
    "unevaluatedProperties": False,
}
RECORD = {
    "type": "object",
    "propertyNames": {"enum": ["x", "y"]},
    "additionalProperties": {"type": "integer"},
    "required": ["x"],
}
#: As pydantic writes inheritance, a discriminated union and a recursive model.
PYDANTIC = {
    "$defs": {
        "Base": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
        "Cat": {
            "type": "object",
            "properties": {"kind": {"const": "cat", "type": "string"}, "lives": {"type": "integer"}},
            "required": ["kind"],
        },
        "Dog": {"type": "object", "properties": {"kind": {"const": "dog", "type": "string"}}, "required": ["kind"]},
        "Tree": {
            "type": "object",
            "properties": {"left": {"anyOf": [{"$ref": "#/$defs/Tree"}, {"type": "null"}]}},
            "required": ["left"],
        },
    },
    "allOf": [{"$ref": "#/$defs/Base"}],
    "properties": {
        "pet": {"discriminator": {"propertyName": "kind"}, "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]},
        "tree": {"$ref": "#/$defs/Tree"},
    },
    "required": ["pet", "tree"],
}


@pytest.mark.parametrize(
    "schema", [SCHEMARS, LANGCHAIN, ZOD, RECORD, PYDANTIC], ids=["schemars", "lc", "zod", "rec", "pyd"]
)
def test_generated_schemas_give_their_own_keys_and_nothing_else(tokenizer: LLTokenizer, schema: dict[str, Any]) -> None:
    names = set(json.dumps(schema).split('"'))
    for seed in range(12):
        text = write(tokenizer, schema, random.Random(seed))

        def unique(pairs: list[tuple[str, Any]], text: str = text) -> dict[str, Any]:
            assert len(dict(pairs)) == len(pairs), text
            assert {key for key, _ in pairs} <= names, text
            return dict(pairs)

        value = json.loads(text, object_pairs_hook=unique)
        jsonschema.Draft202012Validator({key: inner for key, inner in schema.items() if key != "$schema"}).validate(
            value
        )


@pytest.mark.parametrize(
    "words",
    [
        {"uniqueItems": False},
        {"format": "regex"},
        {"format": "vendor-thing"},
        {"format": "uri-reference"},
        {"contentEncoding": "base64", "contentMediaType": "image/png"},
        {"deprecated": True, "$comment": "c", "examples": ["e"], "title": "t", "default": 1, "readOnly": True},
        {"x-order": 3, "markdownDescription": "m", "enumNames": ["a"]},
        {"if": {"type": "string"}},
        {"propertyNames": {"type": "string"}},
        {"dependentRequired": {}},
        {"unevaluatedItems": True},
    ],
    ids=lambda words: next(iter(words)),
)
def test_annotations_never_refuse(tokenizer: LLTokenizer, words: dict[str, Any]) -> None:
    for kind, text in (("string", '"a"'), ("array", '["a"]'), ("object", '{"a": 1}')):
        assert allows(tokenizer, {"type": kind, **words}, text, strict=True)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": {"minLength": 1}}, "if"),
        ({"type": "array", "contains": {"type": "string"}}, "contains"),
        ({"type": "object", "properties": {"a": {"dependentSchemas": {"a": {}}}}}, "dependentSchemas"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
        ({"type": "string", "pattern": "^(?!a)"}, "pattern"),
        ({"$dynamicRef": "#a"}, "$dynamicRef"),
    ],
)
def test_a_constraint_that_no_grammar_can_express_is_refused_under_strict_alone(
    tokenizer: LLTokenizer, schema: dict[str, Any], keyword: str
) -> None:
    with pytest.raises(SchemaError, match=f"'{keyword.replace('$', chr(92) + '$')}'"):
        normalize_schema(schema, strict=True)
    with pytest.raises(GrammarError, match=keyword.replace("$", r"\$")):
        allows(tokenizer, schema, "1", strict=True)
    translate(Grammar(kind="json_schema", text=json.dumps(schema)))


def test_objects_are_closed_by_default(tokenizer: LLTokenizer) -> None:
    closed = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for schema, text, expected in (
        (closed, '{"a": 1}', True),
        (closed, '{"a": 1, "b": 2}', False),
        ({"type": "object", "properties": {"o": closed}}, '{"o": {"b": 1}}', False),
        ({"type": "array", "items": closed}, '[{"b": 1}]', False),
        ({"properties": {"a": {}}}, '{"b": 1}', False),
        ({**closed, "additionalProperties": True}, '{"a": 1, "b": "x"}', True),
        ({**closed, "additionalProperties": {"type": "integer"}}, '{"b": 2}', True),
        ({**closed, "additionalProperties": {"type": "integer"}}, '{"b": "x"}', False),
        ({**closed, "additionalProperties": True}, '{"a": 1, "a": 2}', False),
        ({**closed, "required": ["z"]}, '{"z": 1}', True),
        ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}}, '{"x1": 1}', True),
        ({"type": "object", "patternProperties": {"^x": {"type": "integer"}}}, '{"y": 1}', False),
        ({"type": "object"}, '{"any": [1, {"b": null}]}', True),
        ({}, '{"any": [1, {"b": null}]}', True),
        (True, "3", True),
    ):
        assert allows(tokenizer, schema, text) is expected, (schema, text)


def test_all_of_closes_over_every_branch(tokenizer: LLTokenizer) -> None:
    parts = [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"properties": {"b": {"type": "integer"}}}]
    branches = {
        "properties": {"c": {"type": "integer"}},
        "anyOf": [{"required": ["c"]}, {"properties": {"d": {}}, "required": ["d"]}],
    }
    for schema, text, expected in (
        ({"allOf": parts}, '{"a": 1, "b": 2}', True),
        ({"allOf": parts}, '{"a": 1, "x": 2}', False),
        ({"allOf": parts, "properties": {"c": {"type": "integer"}}}, '{"c": 3, "a": 1, "b": 2}', True),
        ({"allOf": [*parts, {"properties": {"a": {"maximum": 5}}}]}, '{"a": 6}', False),
        (branches, '{"c": 1}', True),
        (branches, '{"d": 1}', True),
        (branches, '{"c": 1, "x": 1}', False),
        ({"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 3}]}, '"abcd"', False),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": "number"}]}, '"a"', False),
    ):
        assert allows(tokenizer, schema, text) is expected, (schema, text)


@pytest.mark.parametrize(
    "schema", [{"type": "number"}, {"type": "integer"}, {}, {"type": ["number", "null"]}, {"minimum": 3}]
)
def test_numbers_are_bounded(tokenizer: LLTokenizer, schema: dict[str, Any]) -> None:
    assert allows(tokenizer, schema, "9" * 16)
    assert not allows(tokenizer, schema, "9" * 17)
    assert not allows(tokenizer, schema, "4." + "3" * 17)


def test_the_schema_s_own_bounds_are_kept(tokenizer: LLTokenizer) -> None:
    assert allows(tokenizer, {"type": "integer", "maximum": 10**18}, "1" + "0" * 17)
    assert not allows(tokenizer, {"type": "number", "minimum": 0, "maximum": 1}, "0." + "3" * 20)
    assert allows(tokenizer, {"type": "number", "minimum": 0, "maximum": 1}, "0.3333")
    assert allows(tokenizer, {"minimum": 3, "exclusiveMinimum": True, "type": "integer"}, "4")
    assert not allows(tokenizer, {"minimum": 3, "exclusiveMinimum": True, "type": "integer"}, "3")


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"anyOf": {}},
        {"required": [1], "properties": {"a": {}}},
        {"type": {"a": 1}},
        {"minimum": "3"},
        {"allOf": [{"$ref": "#"}]},
        {"properties": {"a": 1}},
        {"$ref": "#/nowhere"},
    ],
)
def test_an_invalid_schema_is_refused(tokenizer: LLTokenizer, schema: dict[str, Any]) -> None:
    with pytest.raises((SchemaError, GrammarError)):
        allows(tokenizer, schema, "1")


def test_alternatives_that_multiply_are_bounded() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for level in range(14):
        schema = {
            "type": "object",
            "properties": {f"p{level}": schema},
            "anyOf": [{"required": [f"p{level}"]}, {"properties": {"q": {}}}, {"properties": {"r": {}}}],
        }
    with pytest.raises(SchemaError, match="complex"):
        normalize_schema(schema)
