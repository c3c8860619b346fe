"""Hermes' tags, which Nous Hermes, Qwen 2.5 and 3, QwQ and many models of the ChatML family use.

<tool_call>
{"name": "weather", "arguments": {"city": "Rome"}}
</tool_call>
"""

from __future__ import annotations

import json

from tailrace.chat.families.family import CallForm, Family, Functions
from tailrace.chat.lark import Lark
from tailrace.chat.markup import Markup
from tailrace.chat.readers.json_calls import JsonCalls
from tailrace.chat.tools import Function

OPENS = "<tool_call>"
ENDS = "</tool_call>"


def recognise(template: str) -> bool:
    return OPENS in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(calls={OPENS: lambda: JsonCalls(OPENS, ENDS)}, inner=(ENDS,))


def call(function: Function, lark: Lark) -> str:
    head = lark.literal(f'{OPENS}\n{{"name": {json.dumps(function.name)}, "arguments": ')
    return f"{head} {lark.schema(function.schema())} {lark.literal('}' + chr(10) + ENDS)}"


FORM = CallForm(call=call)
FAMILY = Family(name="hermes", recognise=recognise, markup=markup, form=FORM)
