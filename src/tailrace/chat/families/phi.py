"""Phi-4-mini: a list between tokens, or after a word. Phi-4 and its reasoning models support no tools: generic.

<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}]<|/tool_call|>
functools[{"name": "weather", "arguments": {"city": "Rome"}}]
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tools import Function

_OPENS = "<|tool_call|>"
_ENDS = "<|/tool_call|>"
_WORD = "functools["


def matches_template(template: str) -> bool:
    return "<|/tool_call|>" in template or "<|/tool|>" in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={_OPENS: lambda: JsonCallParser(_OPENS, _ENDS), _WORD: lambda: JsonCallParser(_WORD, None, listed=True)},
        inner_markers=(_ENDS,),
    )


def call(function: Function, lark: LarkBuilder) -> str:
    return lark.call(function.name, "arguments", function.normalized_schema())


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    listed = CallSyntax(call=syntax.call, before=_WORD, between=syntax.between, after="]", openings=syntax.openings)
    block = syntax.block(several=several)
    return [CallOpening(text=_OPENS, rule=block.rule), listed.block(several=several)]


FAMILY = Family(
    name="phi",
    matches_template=matches_template,
    markup=markup,
    syntax=CallSyntax(call=call, before=f"{_OPENS}[", between=", ", after=f"]{_ENDS}", openings=openings),
)
