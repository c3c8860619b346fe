"""What sets one family of models apart: how it marks thoughts and calls, and how a call is held to a schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.markup import Markup
from tailrace.chat.prompt import RenderedPrompt
from tailrace.chat.reply_parser import MarkupParser, ReplyParser, open_thought
from tailrace.chat.resumed_parser import ResumedParser
from tailrace.chat.tools import Function
from tailrace.prompt_text import PromptText
from tailrace.protocol import Trigger

#: Offered functions by name; empty where no calls are looked for.
Functions = Mapping[str, Function]

#: A Lark expression for calls of these functions.
GrammarRule = Callable[[Sequence[Function], LarkBuilder], str]
#: The triggers of a family's calls, with the mode in which the reply is after one.
TriggersForMode = Callable[[int], Sequence[Trigger]]

#: Calls that a grammar lets a reply have at most.
MAX_CALLS = 16


@dataclass(frozen=True, kw_only=True)
class CallOpening:
    """How a call may begin in a reply that is free before it. From ``text`` on, the grammar ``rule`` holds.

    ``pieces``: it counts at the reply's start alone, where white space may stand before each of these; together they
    are ``text``, which has the white space of ``rule``. ``further``: JSON objects behind the call are calls, too, of
    this rule.
    """

    text: str
    rule: GrammarRule
    pieces: tuple[str, ...] = ()
    further: GrammarRule | None = None


@dataclass(frozen=True, kw_only=True)
class CallSyntax:
    """How calls are written under a grammar. The texts may have markers."""

    call: Callable[[Function, LarkBuilder], str]  #: one call, as a Lark expression
    before: str = ""
    between: str | None = "\n"  #: None: a reply has one call
    after: str = ""
    #: How calls begin where the model decides whether to call. Without ``several`` one call each.
    openings: Callable[[CallSyntax, Sequence[Function], bool], Sequence[CallOpening]]

    def one(self, functions: Sequence[Function], lark: LarkBuilder) -> str:
        """A rule for one call of these functions."""
        return lark.rule("call", " | ".join(self.call(function, lark) for function in functions))

    def rule(
        self, functions: Sequence[Function], lark: LarkBuilder, *, several: bool, most: int | None = MAX_CALLS
    ) -> str:
        """A rule for one call, or ``several``, of these functions; ``most`` None: as many as the model likes."""
        call = self.one(functions, lark)
        more = ""
        if several and self.between is not None:
            between = lark.json(self.between) if self.between.strip() else lark.gap(self.between)
            further = f"({between} {lark.gap('')} {call})"
            more = f"{further}*" if most is None else f"{further}{{0,{most - 1}}}"
        return lark.rule("calls", f"{lark.literal(self.before)} {call} {more} {lark.literal(self.after)}")

    def block(self, *, several: bool) -> CallOpening:
        """The opening of all that stands between ``before`` and ``after``."""
        return CallOpening(
            text=self.before, rule=lambda functions, lark: self.rule(functions, lark, several=several, most=None)
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """See the module. ``recognise`` looks for the family's markers in the text of a chat template."""

    name: str
    recognise: Callable[[str], bool]
    markup: Callable[[Functions], Markup]
    form: CallSyntax
    #: Makes a reply's parser from its prompt.
    make_parser: Callable[[str, Functions], ReplyParser] | None = None
    #: What may stand before a reply that a grammar holds: the thought. Replaces ``thought``.
    make_lead: Callable[[str, str, LarkBuilder], str] | None = None
    #: The modes of a reply that is watched for calls, where they aren't those of ``markup``.
    make_modes: Callable[[TriggersForMode], tuple[tuple[Trigger, ...], ...]] | None = None
    #: What has to stand before the text of a reply, behind a prompt that hasn't begun a thought.
    text_head: str = ""
    #: Ids of earlier calls as the template wants them.
    call_id: Callable[[str], str] | None = None

    def parser(self, prompt: PromptText, functions: Functions) -> ReplyParser:
        """A parser for the reply to ``prompt``, which may have begun it."""
        if isinstance(prompt, RenderedPrompt) and prompt.reply:
            head = prompt.head
            return ResumedParser(lambda: self.parser(head, functions), self._begun(prompt))
        if self.make_parser is not None:
            return self.make_parser(prompt.text, functions)
        return MarkupParser(prompt.text, self.markup(functions))

    def _begun(self, prompt: RenderedPrompt) -> str:
        """The reply so far, from the first marker on that the template has put before its text, if there is one."""
        before = prompt.reply_markup
        places = [place for marker in self.markup({}).markers if (place := before.find(marker)) >= 0]
        return prompt.reply[min(places, default=len(before)) :]

    def reply_head(self, prompt: str) -> str:
        """What has to stand between the prompt and the text of a reply: the end of a thought that it has begun, say."""
        thought = open_thought(prompt, self.markup({}).thoughts)
        return f"\n{thought.ends}\n\n" if thought is not None else self.text_head

    def lead(self, prompt: str, template: str, lark: LarkBuilder) -> str:
        """What may stand before the part that a grammar holds, as a Lark expression; "" for nothing."""
        if self.make_lead is not None:
            return self.make_lead(prompt, template, lark)
        return self._thought(prompt, template, lark)

    def _thought(self, prompt: str, template: str, lark: LarkBuilder) -> str:
        space = lark.terminal("space", r"/[ \n\r\t]*/")
        thoughts = self.markup({}).thoughts
        thought = open_thought(prompt, thoughts)
        if thought is not None:
            return f"{lark.until(thought.ends)} {space}"
        end = prompt.rstrip()
        for thought in thoughts:
            if thought.opens in template and not end.endswith(thought.ends):
                # The model decides whether it thinks.
                return f"({lark.literal(thought.opens)} {lark.until(thought.ends)} {space})?"
        return ""
