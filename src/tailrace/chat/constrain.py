"""The grammar that holds a chat's reply: calls to their schemas, the rest to the form that was asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.families.family import Family, Opening
from tailrace.chat.lark import Lark
from tailrace.chat.schemas.hold import SchemaError
from tailrace.chat.tools import Function
from tailrace.chat.watching import watch
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


def free_or_calls(setting: Setting, functions: Sequence[Function], *, several: bool) -> Grammar:
    """The reply is free, and from a call's marker on it is a call of one of ``functions``.

    What a grammar can't hold of the arguments is let through, but for ``strict`` functions. Raises SchemaError for
    those.
    """
    form = setting.family.form
    openings = form.openings(form, functions, several)
    optional = not any(function.strict for function in functions)
    text, simpler = _texts(setting, functions, openings, several=several)
    return Grammar(
        kind="lark",
        text=text,
        simpler=simpler,
        watch=watch(setting.family, setting.prompt, setting.controls, functions, openings, optional=optional),
    )


#: Grammars of calls, by what they are made of. An agent sends the same tools with every request.
_written: OrderedDict[tuple[str, bool, bytes], tuple[Mapping[str, int], str, str]] = OrderedDict()
_REMEMBERED = 16


def _texts(
    setting: Setting, functions: Sequence[Function], openings: Sequence[Opening], *, several: bool
) -> tuple[str, str]:
    """The grammar of calls, and a simpler one that holds the names alone but for ``strict`` functions."""
    key = (setting.family.name, several, msgspec.msgpack.encode(functions))
    found = _written.get(key)
    if found is None or found[0] is not setting.controls:
        open_functions = [function if function.strict else function.open() for function in functions]
        found = (
            setting.controls,
            _any_opening(setting, openings, [_holdable(function) for function in functions]),
            _any_opening(setting, openings, open_functions),
        )
        _written[key] = found
        if len(_written) > _REMEMBERED:
            _written.popitem(last=False)
    _written.move_to_end(key)
    return found[1:]


def _any_opening(setting: Setting, openings: Sequence[Opening], functions: Sequence[Function]) -> str:
    lark = Lark(setting.controls, loose=True)
    rules = {opening.rule(functions, lark): None for opening in openings}
    rules |= {opening.further(functions, lark): None for opening in openings if opening.further is not None}
    return lark.text(start=" | ".join(rules))


def _holdable(function: Function) -> Function:
    if function.strict:
        return function
    try:
        function.schema()
    except SchemaError:
        return function.open()
    return function
