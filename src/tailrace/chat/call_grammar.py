"""The grammar of calls, from a short description of what may be called.

Schemas may be large, and bringing them into the form that a grammar holds takes time. So the server sends the
description, and the grammar is made of it where grammars are tried, in a process that is bounded in time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.families import FAMILIES
from tailrace.chat.families.family import Family
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.schemas.normalize import SchemaError
from tailrace.chat.tools import Function


class CallGrammarSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a grammar of calls depends on. ``free``: calls begin where the model likes, as the family's openings say."""

    family: str
    functions: tuple[Function, ...]
    controls: dict[str, int]  #: those control tokens that may stand in calls
    several: bool
    free: bool = False


def make_spec(
    family: Family, controls: Mapping[str, int], functions: Sequence[Function], *, several: bool, free: bool = False
) -> CallGrammarSpec:
    """The description of calls of these functions in the family's form."""
    markers = family.markup({function.name: function for function in functions}).markers
    return CallGrammarSpec(
        family=family.name,
        functions=tuple(functions),
        controls={marker: controls[marker] for marker in sorted(markers) if marker in controls},
        several=several,
        free=free,
    )


def without_schemas(description: CallGrammarSpec) -> CallGrammarSpec:
    """The same without the arguments' schemas, but for ``strict`` functions."""
    functions = tuple(function if function.strict else function.open() for function in description.functions)
    return msgspec.structs.replace(description, functions=functions)


def call_grammar(text: str) -> str:
    """The Lark grammar of a description's JSON text. Raises SchemaError where ``strict`` arguments can't be held."""
    described = msgspec.json.decode(text, type=CallGrammarSpec)
    form = next(family.form for family in FAMILIES if family.name == described.family)
    lark = LarkBuilder(described.controls, loose=described.free)
    if not described.free:
        return lark.text(start=form.rule(described.functions, lark, several=described.several))
    openings = form.openings(form, described.functions, described.several)
    # Openings share their rules, which are made of all functions.
    makers = dict.fromkeys(rule for opening in openings for rule in (opening.rule, opening.further) if rule is not None)
    functions = [_holdable(function) for function in described.functions]
    return lark.text(start=" | ".join(dict.fromkeys(make(functions, lark) for make in makers)))


def _holdable(function: Function) -> Function:
    """The function, with any arguments where its schema can't be held and doesn't have to be."""
    if function.strict:
        return function
    try:
        function.schema()
    except SchemaError:
        return function.open()
    return function
