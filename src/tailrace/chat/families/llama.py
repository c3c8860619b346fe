"""Llama 3.1 to 3.3: a bare JSON object as the whole reply, at times after a token.

{"name": "weather", "parameters": {"city": "Rome"}}
<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}; {"name": ...}
<function=weather>{"city": "Rome"}</function>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tool_parsers.named_call import NamedCallParser
from tailrace.chat.tools import Function

_PYTHON = "<|python_tag|>"
_FUNCTION = "<function="
_FUNCTION_ENDS = "</function>"
_HEAD = re.compile(r"(?P<name>[^\s<>{}]+)>\s*")


def matches_template(template: str) -> bool:
    return _PYTHON in template or ("<|start_header_id|>" in template and '"parameters"' in template)


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={
            _PYTHON: lambda: JsonCallParser(_PYTHON, None),
            _FUNCTION: lambda: NamedCallParser(_FUNCTION, _HEAD, _FUNCTION_ENDS),
        },
        # Any JSON may be a reply: only an object with an offered function's name is a call.
        bare_calls={"{": lambda: JsonCallParser("", None, functions.__contains__)},
    )


def call(function: Function, lark: LarkBuilder) -> str:
    return lark.call(function.name, "parameters", function.normalized_schema())


def _named_call(functions: Sequence[Function], lark: LarkBuilder) -> str:
    ends = lark.literal(_FUNCTION_ENDS)
    calls = [
        f"{lark.literal(f'{_FUNCTION}{function.name}>')} {lark.schema(function.normalized_schema())} {ends}"
        for function in functions
    ]
    return lark.rule("call", " | ".join(calls))


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    """A bare object is constrained from its name on, as in llama-server: the template asks for this syntax."""
    name = ('"name"', ":", '"')
    return [
        CallOpening(
            text=_PYTHON,
            rule=replace(syntax, before=_PYTHON, between=None).block(several=False).rule,
            next_calls=syntax.one,
        ),
        CallOpening(text=_FUNCTION, rule=_named_call),
        CallOpening(text='{"name": "', rule=syntax.one, start_pieces=("{", *name), next_calls=syntax.one),
        CallOpening(
            text='{"name": "',
            rule=syntax.one,
            start_pieces=("{", '"type"', ":", '"function"', ",", *name),
            next_calls=syntax.one,
        ),
    ]


FAMILY = Family(
    name="llama",
    matches_template=matches_template,
    markup=markup,
    syntax=CallSyntax(call=call, between="; ", openings=openings),
)
