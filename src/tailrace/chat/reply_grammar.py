"""The grammar that holds a chat's reply: calls to their schemas, the rest to the form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.call_grammar import CallGrammarSpec, make_spec, without_schemas
from tailrace.chat.call_triggers import make_triggers
from tailrace.chat.families.family import Family
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.tools import Function
from tailrace.protocol import Grammar


class GrammarContext(msgspec.Struct, frozen=True):
    """What the grammar depends on besides the request's wishes."""

    family: Family
    template: str  #: the chat template's text
    controls: Mapping[str, int]  #: the model's control tokens, by their text
    prompt: str


def required_calls(setting: GrammarContext, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply is a call of one of ``functions``, or ``several``, after a thought where the model thinks."""
    lark = LarkBuilder(setting.controls)
    lead = setting.family.lead(setting.prompt, setting.template, lark)
    described = make_spec(setting.family, setting.controls, functions, several=several)
    return Grammar(kind="calls", text=_text(described), frame=lark.text(start=f"{lead} @body"))


def format_or_calls(setting: GrammarContext, form: Grammar, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply has the ``form``, or is made of calls where there are functions, after a thought."""
    lark = LarkBuilder(setting.controls)
    lead = setting.family.lead(setting.prompt, setting.template, lark)
    body = f"{lark.literal(setting.family.text_head)} @body"
    calls = None
    if functions:
        body = f"({body} | @calls)"
        calls = _text(make_spec(setting.family, setting.controls, functions, several=several))
    if not lead and body == " @body":
        return form
    return msgspec.structs.replace(form, frame=lark.text(start=f"{lead} {body}"), calls=calls)


def lazy_calls(setting: GrammarContext, functions: Sequence[Function], *, several: bool, begun: str = "") -> Grammar:
    """The reply is free, and from a call's marker on it is a call of one of ``functions``. ``begun`` is what the prompt
    has of the reply already, which is no part of the setting's.

    What a grammar can't hold of the arguments is let through, but for ``strict`` functions.
    """
    form = setting.family.form
    openings = form.openings(form, functions, several)
    optional = not any(function.strict for function in functions)
    described = make_spec(setting.family, setting.controls, functions, several=several, free=True)
    return Grammar(
        kind="calls",
        text=_text(described),
        simpler=_text(without_schemas(described)),
        watch=msgspec.structs.replace(
            make_triggers(setting.family, setting.prompt, setting.controls, functions, openings, optional=optional),
            begun=begun,
        ),
    )


def _text(described: CallGrammarSpec) -> str:
    return msgspec.json.encode(described).decode()
