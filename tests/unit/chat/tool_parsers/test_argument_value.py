"""Arguments that a model writes as bare text: strings where the schema admits a string, else what they clearly are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from families import SAMPLES
from parsed_replies import Call, joined, offered, parse, split_anywhere
from tailrace.chat.argument_types import ALL_TYPES, FunctionSchema
from tailrace.chat.families import family_of
from tailrace.chat.families.base import Family
from tailrace.chat.reply_parts import CallArguments
from tailrace.chat.template import ChatTemplate
from tailrace.prompt_text import PromptText

TEXT = {"type": "string"}
NULL = {"type": "null"}
DEFS = {
    "Text": TEXT,
    "Maybe": {"anyOf": [{"$ref": "#/$defs/Text"}, NULL]},
    "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}, TEXT]},
    "Mode": {"enum": ["replace", "insert"]},
    "Number": {"type": "integer"},
}


def family(name: str) -> Family:
    (sample,) = [sample for sample in SAMPLES if sample.family == name]
    return family_of(ChatTemplate(sample.template, bos_token="", eos_token=""))


def written(name: str, key: str, text: str) -> str:
    if name == "glm":
        return f"<tool_call>f\n<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>\n</tool_call>"
    return f"<tool_call>\n<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>"


def read(name: str, schema: object, text: str) -> Any:
    """The value that the text is, the same in whatever pieces it comes."""
    parameters = {"type": "object", "properties": {"a": schema}, "$defs": DEFS}
    values = []
    reply = written(name, "a", text)
    cuts = range(1, len(reply), 5)
    for pieces in ([reply], list(reply), *([reply[:cut], reply[cut:]] for cut in cuts)):
        (call,) = joined(parse(family(name), pieces, functions={"f": parameters}))
        assert isinstance(call, Call)
        assert call.whole
        values.append(call.arguments)
    assert len(set(values)) == 1
    return json.loads(values[0])["a"]


both = pytest.mark.parametrize("name", ["qwen_coder", "glm"])

#: Schemas that admit a string, and nothing else that a text could be but a null.
STRINGS: list[dict[str, Any]] = [
    TEXT,
    {"anyOf": [TEXT, NULL]},
    {"oneOf": [NULL, TEXT]},
    {"type": ["string", "null"]},
    {"type": "string", "nullable": True},
    {"$ref": "#/$defs/Text"},
    {"$ref": "#/$defs/Maybe"},
    {"$ref": "#/$defs/Loop"},
    {"anyOf": [{"$ref": "#/$defs/Text"}, NULL], "default": None},
    {"allOf": [{"$ref": "#/$defs/Text"}]},
    {"allOf": [{"type": ["string", "integer"]}, TEXT]},
    {"const": "x"},
    {"anyOf": [{"const": "x"}, {"anyOf": [TEXT, NULL]}]},
    {"enum": ["x", "y"]},
    {"type": "string", "minLength": 1},
    {"anyOf": [{"type": "string", "pattern": "^a"}, NULL]},
    {"type": "str"},
    {"anyOf": [{"type": "integer"}, TEXT]},
    {"type": ["string", "number", "boolean"]},
]


@both
@pytest.mark.parametrize("schema", STRINGS, ids=str)
@pytest.mark.parametrize("text", ["12345", "true", '{"a": 1}', "1.10", "False", "[1, 2]", "-", '"quoted"', "nullable"])
def test_where_a_string_is_admitted_text_is_one(name: str, schema: dict[str, Any], text: str) -> None:
    assert read(name, schema, text) == text


@both
@pytest.mark.parametrize("schema", [{"anyOf": [TEXT, NULL]}, {"type": ["string", "null"]}, {"$ref": "#/$defs/Maybe"}])
def test_a_null_is_parsed_where_it_is_admitted(name: str, schema: dict[str, Any]) -> None:
    assert [read(name, schema, text) for text in ("null", "None", "nul", "none so far", "nullx")] == [
        None,
        None,
        "nul",
        "none so far",
        "nullx",
    ]
    assert [read(name, TEXT, text) for text in ("null", "None")] == ["null", "None"]


@both
def test_a_list_or_object_is_one_where_it_is_admitted_beside_a_string(name: str) -> None:
    several = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
    assert read(name, several, '["a", "b"]') == ["a", "b"]
    assert read(name, several, "['a', 'b']") == ["a", "b"]
    assert read(name, several, '{"a": 1}') == '{"a": 1}'
    assert read(name, several, "[draft] see below") == "[draft] see below"
    assert read(name, several, "[1, 2") == "[1, 2"
    assert read(name, {"type": ["string", "object"]}, '{"a": 1}') == {"a": 1}


@both
@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "FALSE", False),
        ({"anyOf": [{"type": "boolean"}, NULL]}, "None", None),
        ({"type": ["integer", "null"]}, "None", None),
        ({"type": "integer"}, "42", 42),
        ({"type": "integer"}, "+42", 42),
        ({"type": "integer"}, "042", 42),
        ({"type": "integer"}, "42.0", 42),
        ({"type": "integer"}, '"42"', 42),
        ({"$ref": "#/$defs/Number"}, "42", 42),
        ({"type": "number"}, "1.10", 1.1),
        ({"type": "number"}, ".5", 0.5),
        ({"type": "number"}, "3", 3),
        ({"type": "array"}, "['x', 'y']", ["x", "y"]),
        ({"type": "array"}, "['it\\'s', \"é\\n\", '\\x41\\u00e9', ]", ["it's", "é\n", "Aé"]),
        ({"type": "array"}, "(1, 2.5, True, None,)", [1, 2.5, True, None]),
        ({"type": "object"}, "{'a': {'b': [False]}, \"c\": 'd\"'}", {"a": {"b": [False]}, "c": 'd"'}),
        (
            {"type": "array", "items": TEXT},
            '["x", "</parameter>", "</arg_value>"]',
            ["x", "</parameter>", "</arg_value>"],
        ),
        ({"type": "array"}, '"[1, 2]"', [1, 2]),
        ({"enum": [1, 2, None]}, "2", 2),
        ({"enum": [1, 2, None]}, "None", None),
        ({"const": True}, "True", True),
        ({"type": "integer"}, "many", "many"),
        ({"type": "array"}, "x, y", "x, y"),
        ({"type": "array"}, "[x, y]", "[x, y]"),
        ({"type": "array"}, "['x'", "['x'"),
        ({"type": "boolean"}, "maybe", "maybe"),
    ],
)
def test_other_types_in_models_own_forms(name: str, schema: dict[str, Any], text: str, value: object) -> None:
    given = read(name, schema, text)
    assert (given, type(given)) == (value, type(value))


@both
@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["replace", "insert"]},
        {"type": "string", "enum": ["replace", "insert"]},
        {"$ref": "#/$defs/Mode"},
        {"anyOf": [{"$ref": "#/$defs/Mode"}, NULL]},
        {"allOf": [{"$ref": "#/$defs/Mode"}]},
        {"oneOf": [{"const": "replace"}, {"const": "insert"}]},
    ],
    ids=str,
)
def test_a_listed_value_in_quotes_is_that_value(name: str, schema: dict[str, Any]) -> None:
    for text in ("replace", '"replace"', "'replace'", " replace "):
        assert read(name, schema, text) == "replace"
    assert read(name, schema, '"delete"') == '"delete"'
    assert read(name, {"enum": ['"a"', "a"]}, '"a"') == '"a"'


def test_arguments_without_a_type_in_the_schema() -> None:
    """As each family's own parser reads them: Qwen's takes text, GLM's takes JSON where it is some."""
    for schema in ({}, True, {"description": "anything"}):
        assert [read("qwen_coder", schema, text) for text in ("5", '{"a": 1}', "null")] == ["5", '{"a": 1}', None]
        assert [read("glm", schema, text) for text in ("5", '{"a": 1}', "x")] == [5, {"a": 1}, "x"]


@both
def test_arguments_that_the_schema_does_not_name(name: str) -> None:
    reply = written(name, "b", "12")
    for parameters, value in (
        ({"type": "object", "properties": {"a": TEXT}, "additionalProperties": TEXT}, "12"),
        ({"type": "object", "properties": {"a": TEXT}, "additionalProperties": {"type": "integer"}}, 12),
        ({"type": "object", "allOf": [{"properties": {"b": TEXT}}]}, "12"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"b": {"anyOf": [TEXT, NULL]}}}}}, "12"),
    ):
        (call,) = joined(parse(family(name), [reply], functions={"f": parameters}))
        assert isinstance(call, Call)
        assert json.loads(call.arguments) == {"b": value}


def test_text_comes_as_it_is_written_where_only_a_null_could_be_meant() -> None:
    parameters = {"type": "object", "properties": {"a": {"anyOf": [TEXT, NULL]}}}
    parser = family("qwen_coder").parser(PromptText(""), offered({"f": parameters}))
    parser.feed("<tool_call>\n<function=f>\n<parameter=a>\n")
    parts = parser.feed("line one\nline")
    assert "".join(part.text for part in parts if isinstance(part, CallArguments)) == '"a": "line one\\nline'


# Ends that a model leaves out

PAIR = {"type": "object", "properties": {"a": TEXT, "b": {"type": "integer"}, "c": {"anyOf": [TEXT, NULL]}}}


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ("<parameter=a>\nx\n<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>", {"a": "x", "b": 2}),
        ("<parameter=b>\n2\n<parameter=a>\nx\n</function>\n</tool_call>", {"b": 2, "a": "x"}),
        ("<parameter=a>x<parameter=b>2</function></tool_call>", {"a": "x", "b": 2}),
        ("<parameter=a>\nx\n</tool_call>", {"a": "x"}),
        ("<parameter=a>\nx\n</function>", {"a": "x"}),
        ("<parameter=a>\nx\n</parameter>\n</function>", {"a": "x"}),
        ("<parameter=c>\nnull\n</function>\n</tool_call>", {"c": None}),
        (
            "<parameter=a>\n1 < 2\n<parameter=z>\n</function> y\n</parameter>\n</function>\n</tool_call>",
            {"a": "1 < 2\n<parameter=z>\n</function> y"},
        ),
        ("<parameter=a>\nx <parameter=a> y\n</parameter>\n</function>\n</tool_call>", {"a": "x <parameter=a> y"}),
        ("<parameter=a>\nx </tool_call>y\n</parameter>\n</function>\n</tool_call>", {"a": "x </tool_call>y"}),
    ],
)
def test_a_value_without_its_end_ends_where_the_next_begins(body: str, arguments: dict[str, Any]) -> None:
    """As Qwen's own parser reads it; what could only be told apart by it stays text."""
    reply = f"<tool_call>\n<function=f>\n{body}"
    for parts in split_anywhere(family("qwen_coder"), reply, functions={"f": PAIR}):
        (call,) = parts
        assert isinstance(call, Call)
        assert call.whole
        assert json.loads(call.arguments) == arguments


def test_a_value_that_is_cut_stays_cut() -> None:
    for body in ("<parameter=a>\nx", "<parameter=b>\n2", "<parameter=c>\nnul", "<parameter=a>\nx\n</funct"):
        reply = f"<tool_call>\n<function=f>\n{body}"
        for parts in split_anywhere(family("qwen_coder"), reply, functions={"f": PAIR}):
            (call,) = parts
            assert isinstance(call, Call)
            assert not call.whole


# Types


def test_types_are_bounded_however_a_schema_refers_to_itself() -> None:
    """A chain of references that doubles with each step, one that leads to itself, and ones that lead nowhere."""
    steps = {f"s{n}": {"anyOf": [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(25)}
    schema = {"properties": {"a": {"$ref": "#/$defs/s0"}}, "$defs": {**steps, "s25": TEXT}}
    assert FunctionSchema(schema).argument("a").types == {"string"}
    for reference in ("#/$defs/none", "other.json", "#/$defs/s0/anyOf/7", "#/properties/a", "#"):
        FunctionSchema({"properties": {"a": {"$ref": reference}}, "allOf": [{"$ref": reference}]}).argument("a")
    assert FunctionSchema({"properties": {"a": {"$ref": "#/properties/a"}}}).argument("a").types == ALL_TYPES
    assert FunctionSchema({"properties": {"a/b~c": TEXT, "d": {"$ref": "#/properties/a~1b~0c"}}}).argument(
        "d"
    ).types == {"string"}
    deep: dict[str, Any] = TEXT
    for _ in range(200):
        deep = {"anyOf": [deep]}
    assert FunctionSchema({"properties": {"a": deep}}).argument("a").types == ALL_TYPES


# Calls as JSON


@pytest.mark.parametrize("arguments", ['""', '" "', "null", '"null"', '"{}"', "{}"])
def test_a_call_with_blank_arguments_is_a_call_without_any(arguments: str) -> None:
    """Models write so for functions without parameters."""
    reply = f'<tool_call>{{"name": "now", "arguments": {arguments}}}</tool_call>'
    for parts in split_anywhere(family("hermes"), reply, functions=["now"]):
        assert parts == [Call("now", "{}", whole=True)]
