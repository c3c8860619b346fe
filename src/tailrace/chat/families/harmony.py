"""gpt-oss: messages in channels. Thoughts are in ``analysis``, calls have a recipient, other messages are the reply.

    <|channel|>analysis<|message|>The user asks ...<|end|><|start|>assistant<|channel|>commentary to=functions.weather \
<|constrain|>json<|message|>{"city": "Rome"}<|call|>
    <|channel|>final<|message|>It is sunny.<|return|>
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from tailrace.chat.families.base import CallOpening, CallSyntax, Family, Functions, TriggersForMode
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.marker_search import is_marker_prefix, partial_marker_length
from tailrace.chat.reply_markup import Markup
from tailrace.chat.reply_parser import ReplyParser
from tailrace.chat.reply_parts import CallArguments, CallEnd, CallStart, ReasoningPart, ReplyPart, TextPart
from tailrace.chat.tool_parsers.base import is_valid_name
from tailrace.chat.tool_parsers.json_scanner import JsonScanner
from tailrace.chat.tools import Function
from tailrace.generation_params import Trigger

_START = "<|start|>"
_CHANNEL = "<|channel|>"
_MESSAGE = "<|message|>"
_CONSTRAIN = "<|constrain|>"
_END = "<|end|>"
_ENDS = (_END, "<|call|>", "<|return|>", _START, _CHANNEL)
_AT_END = re.compile("|".join(re.escape(marker) for marker in _ENDS))
_HEADS = (_CHANNEL, _START)
_CHANNEL_NAME = re.compile(re.escape(_CHANNEL) + r"\s*(\w+)")
_RECIPIENT = "to=functions."
_FUNCTION = re.compile(r"\bto=functions\.([^\s<]+)")
#: Characters of a message's head.
_MAX_HEAD = 512


class HarmonyParser:
    """Parses one reply. See ``ReplyParser``."""

    def __init__(self, functions: Functions) -> None:
        self._parses_calls = bool(functions)
        self._buffer = ""
        self._state: Literal["start", "head", "final", "analysis", "call", "arguments", "called"] = "start"
        self._name = ""
        self._arguments = JsonScanner()

    @property
    def passes_all(self) -> bool:
        """Another message may always follow."""
        return False

    def feed(self, text: str) -> list[ReplyPart]:
        """See ``ReplyParser``."""
        self._buffer += text
        parts: list[ReplyPart] = []
        while self._advance(parts):
            pass
        return parts

    def finish(self, *, cut: bool = False) -> list[ReplyPart]:
        """See ``ReplyParser``. The token that ends a call ends the reply and isn't in its text."""
        parts: list[ReplyPart] = []
        rest, self._buffer = self._buffer, ""
        if self._state == "call" and not rest.strip():
            parts += [CallStart(self._name)] if cut else [CallStart(self._name), CallArguments("{}"), CallEnd()]
        elif self._state == "arguments":
            if self._arguments.held:
                parts.append(CallArguments(self._arguments.held))
        elif self._state != "head" or not rest.startswith(_HEADS):
            self._emit(parts, rest)
        return parts

    def _advance(self, parts: list[ReplyPart]) -> bool:
        """Take one step; True where another one may follow."""
        if self._state == "start":
            return self._start()
        if self._state == "head":
            return self._read_head()
        if self._state == "call":
            return self._begin_call(parts)
        if self._state == "arguments":
            return self._read_arguments(parts)
        return self._read_body(parts)

    def _start(self) -> bool:
        """The prompt ends within a head; a reply without one is plain text."""
        stripped = self._buffer.lstrip()
        if stripped.startswith((*_HEADS, "to=")):
            self._state = "head"
        elif is_marker_prefix(stripped, (*_HEADS, "to=")):
            return False
        else:
            self._state = "final"
        return True

    def _read_head(self) -> bool:
        end = self._buffer.find(_MESSAGE)
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                self._state = "final"
                return True
            return False
        head = self._buffer[:end]
        self._buffer = self._buffer[end + len(_MESSAGE) :]
        channel = _CHANNEL_NAME.search(head)
        function = _FUNCTION.search(head)
        if function is not None and self._parses_calls and is_valid_name(function[1]):
            self._name, self._arguments = function[1], JsonScanner()
            self._state = "call"
        else:
            self._state = "analysis" if channel is not None and channel[1] == "analysis" else "final"
        return True

    def _begin_call(self, parts: list[ReplyPart]) -> bool:
        rest = self._buffer.lstrip()
        if not rest:
            return False
        if rest.startswith("{"):
            parts.append(CallStart(self._name))
            self._state = "arguments"
            return True
        if rest.startswith(_ENDS):
            parts += [CallStart(self._name), CallArguments("{}"), CallEnd()]
            self._state = "called"
            return True
        if is_marker_prefix(rest, _ENDS):
            return False
        self._state = "final"  # No arguments: the text is shown.
        return True

    def _read_arguments(self, parts: list[ReplyPart]) -> bool:
        taken, self._buffer = self._arguments.feed(self._buffer)
        if taken:
            parts.append(CallArguments(taken))
        if self._arguments.done:
            parts.append(CallEnd())
            self._state = "called"
            return True
        if self._arguments.broken:
            self._state = "final"
            return True
        return False

    def _read_body(self, parts: list[ReplyPart]) -> bool:
        found = _AT_END.search(self._buffer)
        if found is None:
            out = self._buffer[: len(self._buffer) - partial_marker_length(self._buffer, _ENDS)]
            self._emit(parts, out)
            self._buffer = self._buffer[len(out) :]
            return False
        self._emit(parts, self._buffer[: found.start()])
        head_follows = found[0] in _HEADS
        self._buffer = self._buffer[found.start() if head_follows else found.end() :]
        self._state = "head" if head_follows else "start"
        return True

    def _emit(self, parts: list[ReplyPart], text: str) -> None:
        if self._state == "called":
            text = text.lstrip()
            if text:
                self._state = "final"
        if text:
            parts.append(ReasoningPart(text) if self._state == "analysis" else TextPart(text))


def matches_template(template: str) -> bool:
    return _CHANNEL in template and _MESSAGE in template


def markup(functions: Functions) -> Markup:
    """The markers alone: ``HarmonyParser`` doesn't use the rest."""
    return Markup(thoughts=(), inner_markers=(*_HEADS, _MESSAGE, _CONSTRAIN, _END))


def make_parser(prompt: str, functions: Functions) -> ReplyParser:
    return HarmonyParser(functions)


def call(function: Function, lark: LarkBuilder) -> str:
    head = lark.literal(f"{_CHANNEL}commentary to=functions.{function.name} {_CONSTRAIN}json{_MESSAGE}")
    return f"{head} {lark.schema(function.normalized_schema())}"


def _addressed(functions: Sequence[Function], lark: LarkBuilder) -> str:
    """A call from its recipient on, which may come before or after the channel."""
    channel, form = lark.literal(f"{_CHANNEL}commentary"), lark.literal(_CONSTRAIN)
    head = lark.rule("head", f'({channel})? (" "? {form} "json"? | " json")? {lark.literal(_MESSAGE)}')
    calls = [
        f"{lark.literal(f'{_RECIPIENT}{function.name}')} {head} {lark.schema(function.normalized_schema())}"
        for function in functions
    ]
    return lark.rule("call", " | ".join(calls))


def openings(syntax: CallSyntax, functions: Sequence[Function], several: bool) -> list[CallOpening]:
    return [CallOpening(text=_RECIPIENT, rule=_addressed)]


#: Modes of a reply, by their numbers: the start of a message, a message's head, and its body.
_MESSAGE_START, _IN_HEAD, _IN_BODY = range(3)


def make_modes(call: TriggersForMode) -> tuple[tuple[Trigger, ...], ...]:
    """A recipient counts in a message's head, which begins at the reply's start or after a message."""
    (recipient,) = call(_IN_BODY)
    start = Trigger(
        text=recipient.text,
        next_mode=_IN_BODY,
        grammar_prefix=recipient.grammar_prefix,
        start_pieces=(recipient.text,),
    )
    body = (
        *(Trigger(text=text, next_mode=_IN_HEAD) for text in _HEADS),
        *(Trigger(text=text, next_mode=_MESSAGE_START) for text in (_END, "<|call|>", "<|return|>")),
    )
    return (
        (start, *body),
        (recipient, Trigger(text=_MESSAGE, next_mode=_IN_BODY)),
        body,
    )


def make_preamble(prompt: str, template: str, lark: LarkBuilder) -> str:
    thought = f"{lark.literal(f'{_CHANNEL}analysis{_MESSAGE}')} {lark.until(_END)} {lark.literal(f'{_START}assistant')}"
    return f"({thought})?"


FAMILY = Family(
    name="harmony",
    matches_template=matches_template,
    markup=markup,
    make_parser=make_parser,
    make_preamble=make_preamble,
    make_modes=make_modes,
    # A call ends the message, so a reply has one.
    syntax=CallSyntax(call=call, between=None, openings=openings),
    text_prefix=f"{_CHANNEL}final{_MESSAGE}",
)
