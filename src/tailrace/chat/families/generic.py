"""Models whose template shows none of the markers that are known, or doesn't know tools at all.

Calls are looked for in Hermes' tags, which the model is told to use where its template tells it nothing; and at the
reply's start as bare JSON that names an offered function.
"""

from __future__ import annotations

from tailrace.chat.families import hermes
from tailrace.chat.families.family import Family, Functions
from tailrace.chat.markup import Markup
from tailrace.chat.readers.json_calls import JsonCalls

_PIPED = "<|tool_call|>"


def recognise(template: str) -> bool:
    return True


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup()

    def bare() -> JsonCalls:
        return JsonCalls("", None, functions.__contains__)

    return Markup(
        calls={
            hermes.OPENS: lambda: JsonCalls(hermes.OPENS, hermes.ENDS),
            _PIPED: lambda: JsonCalls(_PIPED, None),
        },
        bare_calls={"{": bare, "[": bare},
        inner=(hermes.ENDS,),
    )


FAMILY = Family(name="generic", recognise=recognise, markup=markup, form=hermes.FORM)
