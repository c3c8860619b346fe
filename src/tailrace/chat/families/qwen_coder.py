"""Qwen3-Coder and Qwen 3.5: an element for each argument.

<tool_call>
<function=weather>
<parameter=city>
Rome
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

from collections.abc import Sequence

from tailrace.chat.families import hermes
from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.xml_call import XmlCallParser
from tailrace.chat.tool_parsers.xml_call_tags import XmlCallTags
from tailrace.chat.tools import Function
from tailrace.chat.xml_call_grammar import element_call

_FUNCTION = "<function="
TAGS = XmlCallTags(
    name_start=_FUNCTION,
    name_end=">",
    key_start="<parameter=",
    key_end=">",
    value_start="",
    value_end="</parameter>",
    call_end="</function>",
    outer_end=hermes.CALL_END,
    own_lines=True,
    may_lack_end=True,
    untyped_text=True,
)


def matches_template(template: str) -> bool:
    return _FUNCTION in template and TAGS.key_start in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={
            hermes.CALL_START: lambda: XmlCallParser(hermes.CALL_START, TAGS, functions),
            # Some models leave the outer tag out.
            _FUNCTION: lambda: XmlCallParser(_FUNCTION, TAGS, functions, named=True),
        },
        inner_markers=(TAGS.value_end, TAGS.call_end, hermes.CALL_END),
    )


def call(function: Function, lark: LarkBuilder) -> str:
    heads = (hermes.CALL_START, f"{_FUNCTION}{function.name}>")
    return element_call(function, lark, TAGS, heads, ("</function>", hermes.CALL_END)) or hermes.call(function, lark)


def _bare_call(functions: Sequence[Function], lark: LarkBuilder) -> str:
    """Calls without the outer tag, which JSON can't replace: functions whose schema needs JSON are left out."""
    calls = [
        element_call(function, lark, TAGS, (f"{_FUNCTION}{function.name}>",), ("</function>",))
        for function in functions
    ]
    return lark.rule("call", " | ".join(call for call in calls if call is not None) or lark.literal(f"{_FUNCTION}>"))


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [CallOpening(text=hermes.CALL_START, rule=syntax.one), CallOpening(text=_FUNCTION, rule=_bare_call)]


FAMILY = Family(
    name="qwen_coder", matches_template=matches_template, markup=markup, syntax=CallSyntax(call=call, openings=openings)
)
