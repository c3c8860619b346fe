"""Phi-4-mini: a list between tokens, or behind a word. (Phi-4 and its reasoning models know no tools: generic.)

<|tool_call|>[{"name": "weather", "arguments": {"city": "Rome"}}]<|/tool_call|>
functools[{"name": "weather", "arguments": {"city": "Rome"}}]
"""

from __future__ import annotations

import json

from tailrace.chat.families.family import CallForm, Family, Functions
from tailrace.chat.lark import Lark
from tailrace.chat.markup import Markup
from tailrace.chat.readers.json_calls import JsonCalls
from tailrace.chat.tools import Function

_OPENS = "<|tool_call|>"
_ENDS = "<|/tool_call|>"
_WORD = "functools["


def recognise(template: str) -> bool:
    return "<|/tool_call|>" in template or "<|/tool|>" in template


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={_OPENS: lambda: JsonCalls(_OPENS, _ENDS), _WORD: lambda: JsonCalls(_WORD, None, listed=True)},
        inner=(_ENDS,),
    )


def call(function: Function, lark: Lark) -> str:
    head = lark.literal(f'{{"name": {json.dumps(function.name)}, "arguments": ')
    return f"{head} {lark.schema(function.schema())} {lark.literal('}')}"


FAMILY = Family(
    name="phi",
    recognise=recognise,
    markup=markup,
    form=CallForm(call=call, before=f"{_OPENS}[", between=", ", after=f"]{_ENDS}"),
)
