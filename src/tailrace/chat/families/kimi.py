"""Kimi K2: each call has an id of the function's name and a number. All markers are tokens.

    <|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Rome"}\
<|tool_call_end|><|tool_calls_section_end|>
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.named_call import NamedCallParser
from tailrace.chat.tools import Function

_SECTION = "<|tool_calls_section_begin|>"
_SECTION_ENDS = "<|tool_calls_section_end|>"
_CALL = "<|tool_call_begin|>"
_CALL_ENDS = "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_HEAD = re.compile(rf"\s*(?:functions\.)?(?P<name>[^\s:{{}}]+?)(?::\d+)?\s*(?:{re.escape(_ARGUMENTS)})?\s*")


def matches_template(template: str) -> bool:
    return _SECTION in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={_CALL: lambda: NamedCallParser(_CALL, _HEAD, _CALL_ENDS)},
        ignored=(_SECTION, _SECTION_ENDS),
        inner_markers=(_ARGUMENTS, _CALL_ENDS),
        calls_end_thoughts=True,
    )


def call(function: Function, lark: LarkBuilder) -> str:
    number = lark.terminal("number", "/[0-9]{1,4}/")
    head = lark.literal(f"{_CALL}functions.{function.name}:")
    arguments = f"{lark.literal(_ARGUMENTS)} {lark.schema(function.normalized_schema())}"
    return f"{head} {number} {arguments} {lark.literal(_CALL_ENDS)}"


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [syntax.block(several=several), CallOpening(text=_CALL, rule=syntax.one)]


FAMILY = Family(
    name="kimi",
    matches_template=matches_template,
    markup=markup,
    syntax=CallSyntax(call=call, before=_SECTION, between="", after=_SECTION_ENDS, openings=openings),
)
