"""Hermes' tags, which Nous Hermes, Qwen 2.5 and 3, QwQ and many models of the ChatML family use.

<tool_call>
{"name": "weather", "arguments": {"city": "Rome"}}
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.families.family import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.markup import Markup
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tools import Function

OPENS = "<tool_call>"
ENDS = "</tool_call>"


def recognise(template: str) -> bool:
    return OPENS in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(calls={OPENS: lambda: JsonCallParser(OPENS, ENDS)}, inner=(ENDS,))


def call(function: Function, lark: LarkBuilder) -> str:
    gap = lark.gap("\n")
    called = lark.call(function.name, "arguments", function.schema())
    return f"{lark.literal(OPENS)} {gap} {called} {gap} {lark.literal(ENDS)}"


def openings(form: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [CallOpening(text=OPENS, rule=form.one)]


FORM = CallSyntax(call=call, openings=openings)
FAMILY = Family(name="hermes", recognise=recognise, markup=markup, form=FORM)
