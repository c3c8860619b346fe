"""Phi-4-mini: a list between tokens, or behind a word. (Phi-4 and its reasoning models know no tools: generic.)

<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}]<|/tool_call|>
functools[{"name": "weather", "arguments": {"city": "Rome"}}]
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.families.family import CallForm, Family, Functions, Opening
from tailrace.chat.lark_builder import Lark
from tailrace.chat.markup import Markup
from tailrace.chat.tool_parsers.json_calls import JsonCalls
from tailrace.chat.tools import Function

_OPENS = "<|tool_call|>"
_ENDS = "<|/tool_call|>"
_WORD = "functools["


def recognise(template: str) -> bool:
    return "<|/tool_call|>" in template or "<|/tool|>" in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={_OPENS: lambda: JsonCalls(_OPENS, _ENDS), _WORD: lambda: JsonCalls(_WORD, None, listed=True)},
        inner=(_ENDS,),
    )


def call(function: Function, lark: Lark) -> str:
    return lark.call(function.name, "arguments", function.schema())


def openings(form: CallForm, functions: Sequence[Function], several: bool) -> list[Opening]:
    listed = CallForm(call=form.call, before=_WORD, between=form.between, after="]", openings=form.openings)
    block = form.block(several=several)
    return [Opening(text=_OPENS, rule=block.rule), listed.block(several=several)]


FAMILY = Family(
    name="phi",
    recognise=recognise,
    markup=markup,
    form=CallForm(call=call, before=f"{_OPENS}[", between=", ", after=f"]{_ENDS}", openings=openings),
)
