"""DeepSeek V3 and R1, and V3.1, which leaves out the word and the fence. All markers are tokens.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather
```json
{"city": "Rome"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.named_call import NamedCallParser
from tailrace.chat.tools import Function

_SECTION = "<｜tool▁calls▁begin｜>"
_SECTION_ENDS = "<｜tool▁calls▁end｜>"
_CALL = "<｜tool▁call▁begin｜>"
_CALL_ENDS = "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_FENCE = "```"
_HEAD = re.compile(
    rf"\s*(?:function\s*{_SEPARATOR}\s*(?=\S+\s*{_FENCE})|(?=\S+?{_SEPARATOR}))"
    rf"(?P<name>[^\s{{}}]+?)\s*(?:{_SEPARATOR}\s*|{_FENCE}(?:json)?\s*)"
)


def matches_template(template: str) -> bool:
    return _CALL in template


def _fenced(template: str) -> bool:
    return f"{_FENCE}json" in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={_CALL: lambda: NamedCallParser(_CALL, _HEAD, _CALL_ENDS, closing=f"{_FENCE}")},
        ignored=(_SECTION, _SECTION_ENDS),
        inner_markers=(_SEPARATOR, _CALL_ENDS),
        calls_end_thoughts=True,
    )


def _fenced_call(function: Function, lark: LarkBuilder) -> str:
    head = lark.literal(f"{_CALL}function{_SEPARATOR}{function.name}\n{_FENCE}json\n")
    return f"{head} {lark.schema(function.normalized_schema())} {lark.gap(chr(10))} {lark.literal(_FENCE + _CALL_ENDS)}"


def _plain_call(function: Function, lark: LarkBuilder) -> str:
    head = lark.literal(f"{_CALL}{function.name}{_SEPARATOR}")
    return f"{head} {lark.schema(function.normalized_schema())} {lark.literal(_CALL_ENDS)}"


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [syntax.block(several=several), CallOpening(text=_CALL, rule=syntax.one)]


#: V3 and R1.
FAMILY = Family(
    name="deepseek",
    matches_template=lambda template: matches_template(template) and _fenced(template),
    markup=markup,
    syntax=CallSyntax(call=_fenced_call, before=_SECTION, after=_SECTION_ENDS, openings=openings),
)
V3_1 = Family(
    name="deepseek_v3.1",
    matches_template=matches_template,
    markup=markup,
    syntax=CallSyntax(call=_plain_call, before=_SECTION, between="", after=_SECTION_ENDS, openings=openings),
)
