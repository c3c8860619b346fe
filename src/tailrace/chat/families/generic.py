"""Models whose template has no known markers, or doesn't support tools.

Calls are parsed in Hermes' tags, which ``tool_prompting`` explains to the model. At the reply's start bare JSON is a
call if it names an offered function.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from tailrace.chat.families import hermes
from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tools import Function

_PIPED = "<|tool_call|>"


def matches_template(template: str) -> bool:
    return True


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()

    def bare() -> JsonCallParser:
        return JsonCallParser("", None, functions.__contains__)

    return Markup(
        calls={
            hermes.CALL_START: lambda: JsonCallParser(hermes.CALL_START, hermes.CALL_END),
            _PIPED: lambda: JsonCallParser(_PIPED, None),
        },
        bare_calls={"{": bare, "[": bare},
        inner_markers=(hermes.CALL_END,),
    )


def _object(function: Function, lark: LarkBuilder) -> str:
    return lark.call(function.name, "arguments", function.normalized_schema())


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    """Bare JSON is constrained once it names an offered function: until then it may be an answer."""
    one = CallSyntax(call=_object, between=", ", openings=openings)
    listed = CallSyntax(call=_object, before="[", between=", ", after="]", openings=openings)
    piped = CallSyntax(call=_object, before=_PIPED, between=None, openings=openings)
    block = listed.block(several=several)
    found = [
        CallOpening(text=hermes.CALL_START, rule=syntax.one),
        replace(piped.block(several=False), next_calls=one.one),
    ]
    for function in functions:
        name = json.dumps(function.name)
        pieces = ("{", '"name"', ":", name, ",")
        found.append(CallOpening(text=f'{{"name": {name},', rule=one.one, start_pieces=pieces, next_calls=one.one))
        found.append(CallOpening(text=f'[{{"name": {name},', rule=block.rule, start_pieces=("[", *pieces)))
    return found


FORM = CallSyntax(call=hermes.call, openings=openings)
FAMILY = Family(name="generic", matches_template=matches_template, markup=markup, syntax=FORM)
