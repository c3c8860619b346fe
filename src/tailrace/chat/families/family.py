"""What sets one family of models apart: how it marks thoughts and calls, and how a call is held to a schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tailrace.chat.lark import Lark
from tailrace.chat.markup import Markup
from tailrace.chat.parse import Parser, ReplyParser, opened
from tailrace.chat.tools import Function

#: Offered functions by name; empty where no calls are looked for.
Functions = Mapping[str, Function]

#: Calls that a grammar lets a reply have at most.
MOST_CALLS = 16


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """How calls are written under a grammar. The texts may have markers."""

    call: Callable[[Function, Lark], str]  #: one call, as a Lark expression
    before: str = ""
    between: str | None = "\n"  #: None: a reply has one call
    after: str = ""

    def rule(self, functions: Sequence[Function], lark: Lark, *, several: bool) -> str:
        """A rule for one call, or ``several``, of these functions."""
        call = lark.rule("call", " | ".join(self.call(function, lark) for function in functions))
        more = ""
        if several and self.between is not None:
            more = f"({lark.literal(self.between)} {call}){{0,{MOST_CALLS - 1}}}"
        return lark.rule("calls", f"{lark.literal(self.before)} {call} {more} {lark.literal(self.after)}")


@dataclass(frozen=True, kw_only=True)
class Family:
    """See the module. ``recognise`` looks for the family's markers in the text of a chat template."""

    name: str
    recognise: Callable[[str], bool]
    markup: Callable[[Functions], Markup]
    form: CallForm
    #: Makes a reply's parser from its prompt.
    make_parser: Callable[[str, Functions], Parser] | None = None
    #: What may stand before a reply that a grammar holds: the thought. Replaces ``thought``.
    make_lead: Callable[[str, str, Lark], str] | None = None
    #: What has to stand before the text of a reply, behind a prompt that hasn't begun a thought.
    text_head: str = ""
    #: Ids of earlier calls as the template wants them.
    call_id: Callable[[str], str] | None = None

    def parser(self, prompt: str, functions: Functions) -> Parser:
        """A parser for the reply to ``prompt``."""
        if self.make_parser is not None:
            return self.make_parser(prompt, functions)
        return ReplyParser(prompt, self.markup(functions))

    def reply_head(self, prompt: str) -> str:
        """What has to stand between the prompt and the text of a reply: the end of a thought that it has begun, say."""
        thought = opened(prompt, self.markup({}).thoughts)
        return f"\n{thought.ends}\n\n" if thought is not None else self.text_head

    def lead(self, prompt: str, template: str, lark: Lark) -> str:
        """What may stand before the part that a grammar holds, as a Lark expression; "" for nothing."""
        if self.make_lead is not None:
            return self.make_lead(prompt, template, lark)
        return self._thought(prompt, template, lark)

    def _thought(self, prompt: str, template: str, lark: Lark) -> str:
        space = lark.terminal("space", r"/[ \n\r\t]*/")
        thoughts = self.markup({}).thoughts
        thought = opened(prompt, thoughts)
        if thought is not None:
            return f"{lark.until(thought.ends)} {space}"
        end = prompt.rstrip()
        for thought in thoughts:
            if thought.opens in template and not end.endswith(thought.ends):
                # The model decides whether it thinks.
                return f"({lark.literal(thought.opens)} {lark.until(thought.ends)} {space})?"
        return ""
