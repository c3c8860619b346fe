"""Llama 3.1 to 3.3: a bare JSON object as the whole reply, at times behind a token.

{"name": "weather", "parameters": {"city": "Rome"}}
<|python_tag|>{"name": "weather", "parameters": {"city": "Rome"}}; {"name": ...}
<function=weather>{"city": "Rome"}</function>
"""

from __future__ import annotations

import json
import re

from tailrace.chat.families.family import CallForm, Family, Functions
from tailrace.chat.lark import Lark
from tailrace.chat.markup import Markup
from tailrace.chat.readers.json_calls import JsonCalls
from tailrace.chat.readers.named_call import NamedCall
from tailrace.chat.tools import Function

_PYTHON = "<|python_tag|>"
_FUNCTION = "<function="
_FUNCTION_ENDS = "</function>"
_HEAD = re.compile(r"(?P<name>[^\s<>{}]+)>\s*")


def recognise(template: str) -> bool:
    return _PYTHON in template or ("<|start_header_id|>" in template and '"parameters"' in template)


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()
    return Markup(
        calls={
            _PYTHON: lambda: JsonCalls(_PYTHON, None),
            _FUNCTION: lambda: NamedCall(_FUNCTION, _HEAD, _FUNCTION_ENDS),
        },
        # Any JSON may be a reply: only what names an offered function is a call.
        bare_calls={"{": lambda: JsonCalls("", None, functions.__contains__)},
    )


def call(function: Function, lark: Lark) -> str:
    head = lark.literal(f'{{"name": {json.dumps(function.name)}, "parameters": ')
    return f"{head} {lark.schema(function.schema())} {lark.literal('}')}"


FAMILY = Family(name="llama", recognise=recognise, markup=markup, form=CallForm(call=call, between="; "))
