"""The Lark grammar of tool calls, from a short description of the functions.

Schemas may be large, and their conversion takes time. So the server sends a ``CallGrammarSpec``. The sandbox makes the
grammar of it, within its limits of time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tailrace.chat.families import FAMILIES
from tailrace.chat.families.base import Family
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.schemas.normalize import SchemaError
from tailrace.chat.tools import Function


class CallGrammarSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that a grammar of calls depends on. ``lazy``: the model decides whether and where calls begin."""

    family: str
    functions: tuple[Function, ...]
    controls: dict[str, int]  #: the control tokens that may be part of calls
    several: bool
    lazy: bool = False


def make_spec(
    family: Family, controls: Mapping[str, int], functions: Sequence[Function], *, several: bool, lazy: bool = False
) -> CallGrammarSpec:
    """The spec of calls of these functions in the family's syntax."""
    markers = family.markup({function.name: function for function in functions}).markers
    return CallGrammarSpec(
        family=family.name,
        functions=tuple(functions),
        controls={marker: controls[marker] for marker in sorted(markers) if marker in controls},
        several=several,
        lazy=lazy,
    )


def without_schemas(spec: CallGrammarSpec) -> CallGrammarSpec:
    """The same without the arguments' schemas, except for ``strict`` functions."""
    functions = tuple(function if function.strict else function.with_any_arguments() for function in spec.functions)
    return msgspec.structs.replace(spec, functions=functions)


def call_grammar(text: str) -> str:
    """The Lark grammar of a spec's JSON text. Raises SchemaError where ``strict`` arguments can't be expressed."""
    spec = msgspec.json.decode(text, type=CallGrammarSpec)
    syntax = next(family.syntax for family in FAMILIES if family.name == spec.family)
    lark = LarkBuilder(spec.controls, loose=spec.lazy)
    if not spec.lazy:
        return lark.text(start=syntax.rule(spec.functions, lark, several=spec.several))
    openings = syntax.openings(syntax, spec.functions, spec.several)
    # Openings share their rules, each of which covers all functions.
    rules = dict.fromkeys(
        rule for opening in openings for rule in (opening.rule, opening.next_calls) if rule is not None
    )
    functions = [_expressible(function) for function in spec.functions]
    return lark.text(start=" | ".join(dict.fromkeys(make(functions, lark) for make in rules)))


def _expressible(function: Function) -> Function:
    """The function, with any arguments where no grammar can express its schema and it isn't ``strict``."""
    if function.strict:
        return function
    try:
        function.normalized_schema()
    except SchemaError:
        return function.with_any_arguments()
    return function
