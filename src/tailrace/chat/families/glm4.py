"""GLM-4-9B and GLM-4-0414: the name on a line of its own at the reply's start, then the arguments.

weather
{"city": "Rome"}
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.named_call import NamedCallParser
from tailrace.chat.tools import Function

_HEAD = re.compile(r"\s*(?P<name>\S+)[ \t]*\n\s*")


def matches_template(template: str) -> bool:
    return "<|observation|>" in template and "<arg_key>" not in template


def markup(functions: Functions) -> Markup:
    return Markup(bare_calls={f"{name}\n{{": lambda: NamedCallParser("", _HEAD, None) for name in functions})


def call(function: Function, lark: LarkBuilder) -> str:
    return f"{lark.literal(function.name + chr(10))} {lark.schema(function.normalized_schema())}"


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    heads = [f"{function.name}\n{{" for function in functions]
    return [CallOpening(text=head, rule=syntax.one, start_pieces=(head,)) for head in heads]


FAMILY = Family(
    name="glm4",
    matches_template=matches_template,
    markup=markup,
    syntax=CallSyntax(call=call, between=None, openings=openings),
)
