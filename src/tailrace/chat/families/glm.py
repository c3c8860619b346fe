"""GLM 4.5 and later: an element for each argument's name and value.

<tool_call>weather
<arg_key>city</arg_key>
<arg_value>Rome</arg_value>
</tool_call>
"""

from __future__ import annotations

from tailrace.chat.families import hermes
from tailrace.chat.families.base import CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.xml_call import XmlCallParser
from tailrace.chat.tool_parsers.xml_call_tags import XmlCallTags
from tailrace.chat.tools import Function
from tailrace.chat.xml_call_grammar import element_call

TAGS = XmlCallTags(
    name_start="",
    name_end="",
    key_start="<arg_key>",
    key_end="</arg_key>",
    value_start="<arg_value>",
    value_end="</arg_value>",
    call_end="",
    outer_end=hermes.CALL_END,
    own_lines=False,
)
_PLACES = (TAGS.key_start, TAGS.key_end, TAGS.value_start, TAGS.value_end, TAGS.outer_end)


def matches_template(template: str) -> bool:
    return TAGS.key_start in template and TAGS.value_start in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={hermes.CALL_START: lambda: XmlCallParser(hermes.CALL_START, TAGS, functions)}, inner_markers=_PLACES
    )


def call(function: Function, lark: LarkBuilder) -> str:
    heads = (f"{hermes.CALL_START}{function.name}",)
    return element_call(function, lark, TAGS, heads, (hermes.CALL_END,)) or hermes.call(function, lark)


FAMILY = Family(
    name="glm", matches_template=matches_template, markup=markup, syntax=CallSyntax(call=call, openings=hermes.openings)
)
