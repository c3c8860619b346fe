"""Mistral's models: a token, then a list (up to Nemo and Small 3.1) or a name and arguments (later).

[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Rome"}, "id": "9Ae3bDc2F"}]
[TOOL_CALLS]weather[ARGS]{"city": "Rome"}
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import THINK, Markup, ThoughtMarkers
from tailrace.chat.reply_parts import ReplyPart
from tailrace.chat.tool_parsers.base import CallParser
from tailrace.chat.tool_parsers.json_calls import JsonCallParser
from tailrace.chat.tool_parsers.named_call import NamedCallParser
from tailrace.chat.tools import Function

_CALLS = "[TOOL_CALLS]"
_ID = "[CALL_ID]"
_ARGUMENTS = "[ARGS]"
_HEAD = re.compile(r"\s*(?P<name>[^\s\[\]{}]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?(?:\[ARGS\])?\s*")
_THOUGHTS = (ThoughtMarkers("[THINK]", "[/THINK]"), THINK)
#: The form of a call's id in the templates.
_CALL_ID = re.compile(r"[A-Za-z0-9]{9}")


def matches_template(template: str) -> bool:
    return _CALLS in template or ("[INST]" in template and "[AVAILABLE_TOOLS]" in template)


class _EitherParser:
    """Either syntax: the first character after the token decides."""

    def __init__(self) -> None:
        self._before = _CALLS
        self._reader: CallParser | None = None

    def feed(self, text: str, parts: list[ReplyPart]) -> None:
        """See ``CallParser``."""
        if self._reader is None:
            rest = text.lstrip()
            self._before += text[: len(text) - len(rest)]
            if not rest:
                return
            listed = rest[0] in "[{"
            self._reader = JsonCallParser(self._before, None) if listed else NamedCallParser(self._before, _HEAD, None)
            text = rest
        self._reader.feed(text, parts)

    def finish(self, parts: list[ReplyPart]) -> str:
        """See ``CallParser``."""
        return self._before if self._reader is None else self._reader.finish(parts)


def markup(functions: Functions) -> Markup:
    if not functions:
        return Markup(thoughts=_THOUGHTS)
    return Markup(
        thoughts=_THOUGHTS, calls={_CALLS: _EitherParser}, inner_markers=(_ID, _ARGUMENTS), calls_end_thoughts=True
    )


def call_id(identity: str) -> str:
    """The id in the templates' syntax, the same for the same id."""
    if _CALL_ID.fullmatch(identity):
        return identity
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _listed_call(function: Function, lark: LarkBuilder) -> str:
    identity = lark.terminal("id", "/[A-Za-z0-9]{9}/")
    head = f"{lark.json(', ' + json.dumps('id') + ':')} {lark.gap(' ')}"
    more = f"{head} {lark.literal(chr(34))} {identity} {lark.literal(chr(34))}"
    # Where the model decides whether to call, some leave the id out, like their older templates.
    return lark.call(function.name, "arguments", function.normalized_schema(), lark.optional(more))


def _named_call(function: Function, lark: LarkBuilder) -> str:
    return f"{lark.literal(_CALLS + function.name + _ARGUMENTS)} {lark.schema(function.normalized_schema())}"


def _listed_openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    block = syntax.block(several=several)
    return [CallOpening(text=_CALLS, rule=block.rule)]


def _named_openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [CallOpening(text=_CALLS, rule=syntax.one)]


#: With ``[ARGS]``.
NAMED = Family(
    name="mistral_args",
    matches_template=lambda template: matches_template(template) and _ARGUMENTS in template,
    markup=markup,
    syntax=CallSyntax(call=_named_call, between="", openings=_named_openings),
    call_id=call_id,
)
FAMILY = Family(
    name="mistral",
    matches_template=matches_template,
    markup=markup,
    syntax=CallSyntax(call=_listed_call, before=f"{_CALLS}[", between=", ", after="]", openings=_listed_openings),
    call_id=call_id,
)
