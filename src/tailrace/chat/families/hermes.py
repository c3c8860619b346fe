"""Hermes' tags, which Nous Hermes, Qwen 2.5 and 3, QwQ and many models of the ChatML family use.

<tool_call>
{"name": "weather", "arguments": {"city": "Rome"}}
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tools import Function

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"


def matches_template(template: str) -> bool:
    return CALL_START in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(calls={CALL_START: lambda: JsonCallParser(CALL_START, CALL_END)}, inner_markers=(CALL_END,))


def call(function: Function, lark: LarkBuilder) -> str:
    gap = lark.gap("\n")
    called = lark.call(function.name, "arguments", function.normalized_schema())
    return f"{lark.literal(CALL_START)} {gap} {called} {gap} {lark.literal(CALL_END)}"


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [CallOpening(text=CALL_START, rule=syntax.one)]


FORM = CallSyntax(call=call, openings=openings)
FAMILY = Family(name="hermes", matches_template=matches_template, markup=markup, syntax=FORM)
