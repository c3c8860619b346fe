"""Translates the request's structured-output fields, in all their forms, into one grammar."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tailrace.errors import InvalidRequest
from tailrace.generation_params import Grammar
from tailrace.server.dialects.openai.common_fields import CommonFields

GrammarText = Annotated[str, Meta(min_length=1)]
Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]
Schema = dict[str, Any]

#: GBNF's rules are written with ``::=``, Lark's with a colon.
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)
_ANY_OBJECT = Grammar(kind="json_schema", text='{"type": "object"}')


class NamedSchema(msgspec.Struct):
    """A schema in OpenAI's ``response_format``. The reply always follows it; with ``strict``, schemas that no grammar
    can express are refused.
    """

    name: str | None = None
    schema: Schema | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct):
    """The reply's form. ``schema`` beside ``json_object`` is llama.cpp's way to give one."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema: Schema | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's form: one of these."""

    json: Schema | GrammarText | None = None
    regex: GrammarText | None = None
    choice: Choices | None = None
    grammar: GrammarText | None = None
    json_object: bool | None = None
    # Always true here: one backend, no unusual whitespace, closed objects
    disable_fallback: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    # Refused
    whitespace_pattern: str | None = None
    structural_tag: str | None = None


class GrammarParameters(CommonFields, kw_only=True):
    """The fields that say what the reply looks like. A request may have one of them."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    # vLLM's older names
    guided_json: Schema | GrammarText | None = None
    guided_regex: GrammarText | None = None
    guided_choice: Choices | None = None
    guided_grammar: GrammarText | None = None
    # llama-server's
    grammar: GrammarText | None = None
    json_schema: Schema | None = None


#: The fields of ``GrammarParameters`` itself.
_GRAMMAR_FIELDS = [name for name in GrammarParameters.__struct_fields__ if name not in CommonFields.__struct_fields__]


def grammar(parameters: GrammarParameters) -> tuple[Grammar | None, str]:
    """The request's grammar, and the field that has it. Raises InvalidRequest for several."""
    given = [
        (name, made)
        for name, value in _fields(parameters)
        if value is not None and (made := _to_grammar(name, value)) is not None
    ]
    if len(given) > 1:
        first, second = given[0][0], given[1][0]
        raise InvalidRequest(f"Only one of '{first}' and '{second}' can say what the reply looks like.", param=second)
    return (given[0][1], given[0][0]) if given else (None, "response_format")


def _fields(parameters: GrammarParameters) -> list[tuple[str, Any]]:
    fields = [(name, getattr(parameters, name)) for name in _GRAMMAR_FIELDS]
    nested = parameters.structured_outputs
    if nested is not None:
        fields += [(f"structured_outputs.{name}", getattr(nested, name)) for name in nested.__struct_fields__]
    return fields


def _to_grammar(name: str, value: Any) -> Grammar | None:
    kind = name.rpartition(".")[2].removeprefix("guided_")
    if kind == "response_format":
        return _from_response_format(value)
    if kind == "structured_outputs" or kind.startswith("disable_"):
        return None  # Its inner fields are looked at one by one; the disabled features don't exist here.
    if kind in ("whitespace_pattern", "structural_tag"):
        raise InvalidRequest(f"'{name}' is not supported.", param=name, code="unsupported_value")
    if kind == "json_object":
        return _ANY_OBJECT if value else None
    if kind in ("json", "json_schema"):
        return Grammar(kind="json_schema", text=value if isinstance(value, str) else _text(value))
    if kind == "regex":
        return Grammar(kind="regex", text=value)
    if kind == "choice":
        return Grammar(kind="choice", text=_text(value))
    return Grammar(kind="gbnf" if _GBNF.search(value) else "lark", text=value)


def _from_response_format(form: ResponseFormat) -> Grammar | None:
    if form.type == "text":
        return None
    if form.type == "json_object":
        return _ANY_OBJECT if form.schema is None else Grammar(kind="json_schema", text=_text(form.schema))
    schema = form.json_schema.schema if form.json_schema is not None else form.schema
    if schema is None:
        where = "response_format.json_schema.schema" if form.json_schema is not None else "response_format.json_schema"
        raise InvalidRequest(f"'{where}' is missing: 'json_schema' needs a schema.", param=where)
    strict = form.json_schema is not None and form.json_schema.strict is True
    return Grammar(kind="json_schema", text=_text(schema), strict=strict)


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
