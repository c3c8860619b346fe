"""Translates a request's grammar into llguidance's own form. Nothing is compiled here.

The sandbox runs it, because clients write the text.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from tailrace.chat.call_grammar import call_grammar
from tailrace.chat.json_depth import is_too_deep
from tailrace.chat.schemas.normalize import SchemaError, normalize_schema
from tailrace.engine.structured.grammar_error import GrammarError
from tailrace.generation_params import Grammar

#: JSON is written on one line, with the separators of most JSON in training data. With free white space small models
#: may write it without end, and nothing could be forced. A schema's own ``x-guidance`` may allow it.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def translate(grammar: Grammar) -> str:
    """The grammar as llguidance's JSON document. Raises GrammarError for errors that show without compiling."""
    try:
        body = _body(grammar)
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None
    if grammar.wrapper is None:
        return json.dumps({"grammars": [body]})
    grammars: list[dict[str, Any]] = [{"lark_grammar": grammar.wrapper}, {"name": "body", **body}]
    if grammar.calls is not None:
        grammars.append({"name": "calls", "lark_grammar": _calls(grammar.calls)})
    return json.dumps({"grammars": grammars})


def _body(grammar: Grammar) -> dict[str, Any]:
    text = grammar.text
    if grammar.kind == "json_schema":
        return {"json_schema": _schema(text, strict=grammar.strict)}
    if grammar.kind == "calls":
        return {"lark_grammar": _calls(text)}
    if grammar.kind == "lark":
        return {"lark_grammar": text}
    if grammar.kind == "gbnf":
        try:
            return {"lark_grammar": gbnf_to_lark(text)}
        except Exception as error:  # The converter raises Exception itself for a grammar that it can't read.
            raise GrammarError(str(error)) from None
    if grammar.kind == "regex":
        # Only the library knows how an expression is quoted inside a grammar.
        document = json.loads(LLMatcher.grammar_from_regex(text))
        return {"lark_grammar": document["grammars"][0]["lark_grammar"]}
    choices = json.loads(text)
    return {"lark_grammar": "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)}


def _calls(text: str) -> str:
    try:
        return call_grammar(text)
    except SchemaError as error:
        raise GrammarError(str(error)) from None


def _schema(text: str, *, strict: bool) -> Any:
    if is_too_deep(text):
        raise GrammarError("it is nested too deeply")
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from None
    try:
        normalized = normalize_schema(schema, strict=strict)
    except SchemaError as error:
        raise GrammarError(str(error)) from None
    return with_json_style(normalized)


def with_json_style(schema: Any) -> Any:
    """The schema with the options of its JSON's white space and separators."""
    if not isinstance(schema, dict):
        return schema
    return {**schema, "x-guidance": {**_JSON, **schema.get("x-guidance", {})}}
