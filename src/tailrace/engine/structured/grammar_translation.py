"""From what a request asks for to a grammar in llguidance's own form. Pure translation: nothing is compiled here.

It runs in the sandbox, because requests bring the text.
"""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from tailrace.chat.call_grammar import call_grammar
from tailrace.chat.json_depth import is_too_deep
from tailrace.chat.schemas.normalize import SchemaError, normalize_schema
from tailrace.errors import TailraceError
from tailrace.protocol import Grammar

#: How JSON is written: on one line, with the separators of most JSON that models have read. Free white space would let
#: small models write it without end, and leaves nothing to be forced: a schema's own ``x-guidance`` may ask for it.
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class GrammarError(TailraceError):
    """The grammar can't be used; the message is for whoever wrote it."""


def translate(grammar: Grammar) -> str:
    """The grammar as llguidance's JSON document. Raises GrammarError for what can be seen to be wrong here."""
    try:
        body = _body(grammar)
    except RecursionError:
        raise GrammarError("it is nested too deeply") from None
    if grammar.frame is None:
        return json.dumps({"grammars": [body]})
    grammars: list[dict[str, Any]] = [{"lark_grammar": grammar.frame}, {"name": "body", **body}]
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
        except Exception as error:  # The converter raises Exception itself for what it can't read.
            raise GrammarError(str(error)) from None
    if grammar.kind == "regex":
        # Only the library knows how to quote an expression inside of a grammar.
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
        held = normalize_schema(schema, strict=strict)
    except SchemaError as error:
        raise GrammarError(str(error)) from None
    return guided(held)


def guided(schema: Any) -> Any:
    """The schema with how its JSON is written."""
    if not isinstance(schema, dict):
        return schema
    return {**schema, "x-guidance": {**_JSON, **schema.get("x-guidance", {})}}
