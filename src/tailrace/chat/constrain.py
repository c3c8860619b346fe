"""The grammar that holds a chat's reply: calls to their schemas, the rest to the form that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.families.family import Family
from tailrace.chat.lark import Lark
from tailrace.chat.tools import Function
from tailrace.messages import Grammar


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
    calls = setting.family.form.rule(functions, lark, several=several)
    return Grammar(kind="lark", text=lark.text(start=f"{lead} {calls}"))


def form_or_calls(setting: Setting, form: Grammar, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply has the ``form``, or is made of calls where there are functions, after a thought."""
    lark = Lark(setting.controls)
    lead = setting.family.lead(setting.prompt, setting.template, lark)
    body = f"{lark.literal(setting.family.text_head)} @body"
    if functions:
        body = f"({body} | {setting.family.form.rule(functions, lark, several=several)})"
    if not lead and body == " @body":
        return form
    return msgspec.structs.replace(form, frame=lark.text(start=f"{lead} {body}"))
