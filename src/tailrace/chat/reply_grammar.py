"""The grammar of a chat's reply: tool calls fit their schemas, other text has the format that the request asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.call_grammar import CallGrammarSpec, make_spec, without_schemas
from tailrace.chat.call_triggers import make_triggers
from tailrace.chat.families.base import Family
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.tools import Function
from tailrace.generation_params import Grammar


class GrammarContext(msgspec.Struct, frozen=True):
    """What the grammar depends on besides the request's format and functions."""

    family: Family
    template: str  #: the chat template's text
    controls: Mapping[str, int]  #: the model's control tokens, by their text
    prompt: str


def required_calls(context: GrammarContext, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply is a call of one of ``functions``, or ``several``, after a thought where the model thinks."""
    lark = LarkBuilder(context.controls)
    preamble = context.family.preamble(context.prompt, context.template, lark)
    spec = make_spec(context.family, context.controls, functions, several=several)
    return Grammar(kind="calls", text=_text(spec), wrapper=lark.text(start=f"{preamble} @body"))


def format_or_calls(
    context: GrammarContext, response_format: Grammar, functions: Sequence[Function], *, several: bool
) -> Grammar:
    """The reply has the ``response_format``, or consists of calls where there are functions, after a thought."""
    lark = LarkBuilder(context.controls)
    preamble = context.family.preamble(context.prompt, context.template, lark)
    body = f"{lark.literal(context.family.text_prefix)} @body"
    calls = None
    if functions:
        body = f"({body} | @calls)"
        calls = _text(make_spec(context.family, context.controls, functions, several=several))
    if not preamble and body == " @body":
        return response_format
    return msgspec.structs.replace(response_format, wrapper=lark.text(start=f"{preamble} {body}"), calls=calls)


def lazy_calls(
    context: GrammarContext, functions: Sequence[Function], *, several: bool, reply_start: str = ""
) -> Grammar:
    """The reply is unconstrained, but from a call's marker on it is a call of one of ``functions``. ``reply_start`` is
    the part of the reply that the prompt already has; the context's prompt is without it.

    Constraints of arguments that no grammar can express are left out, except for ``strict`` functions.
    """
    syntax = context.family.syntax
    openings = syntax.openings(syntax, functions, several)
    optional = not any(function.strict for function in functions)
    spec = make_spec(context.family, context.controls, functions, several=several, lazy=True)
    triggers = make_triggers(context.family, context.prompt, context.controls, functions, openings, optional=optional)
    return Grammar(
        kind="calls",
        text=_text(spec),
        fallback=_text(without_schemas(spec)),
        triggers=msgspec.structs.replace(triggers, reply_start=reply_start),
    )


def _text(spec: CallGrammarSpec) -> str:
    return msgspec.json.encode(spec).decode()
