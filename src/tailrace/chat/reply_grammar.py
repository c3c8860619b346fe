"""The grammar that holds a chat's reply: calls to their schemas, the rest to the form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.call_grammar import Description, describe, with_names_alone
from tailrace.chat.call_triggers import watch
from tailrace.chat.families.family import Family
from tailrace.chat.lark_builder import Lark
from tailrace.chat.tools import Function
from tailrace.protocol import Grammar


class Setting(msgspec.Struct, frozen=True):
    """What the grammar depends on besides the request's wishes."""

    family: Family
    template: str  #: the chat template's text
    controls: Mapping[str, int]  #: the model's control tokens, by their text
    prompt: str


def calls_only(setting: Setting, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply is a call of one of ``functions``, or ``several``, after a thought where the model thinks."""
    lark = Lark(setting.controls)
    lead = setting.family.lead(setting.prompt, setting.template, lark)
    described = describe(setting.family, setting.controls, functions, several=several)
    return Grammar(kind="calls", text=_text(described), frame=lark.text(start=f"{lead} @body"))


def form_or_calls(setting: Setting, form: Grammar, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply has the ``form``, or is made of calls where there are functions, after a thought."""
    lark = Lark(setting.controls)
    lead = setting.family.lead(setting.prompt, setting.template, lark)
    body = f"{lark.literal(setting.family.text_head)} @body"
    calls = None
    if functions:
        body = f"({body} | @calls)"
        calls = _text(describe(setting.family, setting.controls, functions, several=several))
    if not lead and body == " @body":
        return form
    return msgspec.structs.replace(form, frame=lark.text(start=f"{lead} {body}"), calls=calls)


def free_or_calls(setting: Setting, functions: Sequence[Function], *, several: bool, begun: str = "") -> Grammar:
    """The reply is free, and from a call's marker on it is a call of one of ``functions``. ``begun`` is what the prompt
    has of the reply already, which is no part of the setting's.

    What a grammar can't hold of the arguments is let through, but for ``strict`` functions.
    """
    form = setting.family.form
    openings = form.openings(form, functions, several)
    optional = not any(function.strict for function in functions)
    described = describe(setting.family, setting.controls, functions, several=several, free=True)
    return Grammar(
        kind="calls",
        text=_text(described),
        simpler=_text(with_names_alone(described)),
        watch=msgspec.structs.replace(
            watch(setting.family, setting.prompt, setting.controls, functions, openings, optional=optional), begun=begun
        ),
    )


def _text(described: Description) -> str:
    return msgspec.json.encode(described).decode()
