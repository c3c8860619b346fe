"""The parts of a model family: its template's markers, its replies' markup and parser, and the grammar of its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tailrace.chat.continued_parser import ResumedParser
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.prompt import RenderedPrompt
from tailrace.chat.reply_markup import Markup
from tailrace.chat.reply_parser import PROMPT_END, MarkupParser, ReplyParser, open_thought
from tailrace.chat.tools import Function
from tailrace.generation_params import Trigger
from tailrace.prompt_text import PromptText

#: Offered functions by name; empty where the reply is not searched for calls.
Functions = Mapping[str, Function]

#: Makes a Lark expression for calls of these functions.
GrammarRule = Callable[[Sequence[Function], LarkBuilder], str]
#: Makes the triggers of a family's calls; the argument is the mode of the reply after one.
TriggersForMode = Callable[[int], Sequence[Trigger]]

#: Calls that a grammar allows in one reply.
MAX_CALLS = 16


@dataclass(frozen=True, kw_only=True)
class CallOpening:
    """One way in which a call may begin in an unconstrained reply. From ``text`` on, the grammar ``rule`` applies.

    ``start_pieces``: the call may begin at the reply's start alone, and white space may stand before each of these
    pieces. Together they are ``text``, with the white space of ``rule``. ``next_calls``: JSON objects after the call
    are calls as well, of this rule.
    """

    text: str
    rule: GrammarRule
    start_pieces: tuple[str, ...] = ()
    next_calls: GrammarRule | None = None


@dataclass(frozen=True, kw_only=True)
class CallSyntax:
    """How a family writes calls, as a grammar. The texts may contain markers."""

    call: Callable[[Function, LarkBuilder], str]  #: one call, as a Lark expression
    before: str = ""
    between: str | None = "\n"  #: None: a reply has one call
    after: str = ""
    #: How calls begin where the model decides whether to call. Without ``several``, one call for each opening.
    openings: Callable[[CallSyntax, Sequence[Function], bool], Sequence[CallOpening]]

    def one(self, functions: Sequence[Function], lark: LarkBuilder) -> str:
        """A rule for one call of these functions."""
        return lark.rule("call", " | ".join(self.call(function, lark) for function in functions))

    def rule(
        self, functions: Sequence[Function], lark: LarkBuilder, *, several: bool, max_calls: int | None = MAX_CALLS
    ) -> str:
        """A rule for one call, or ``several``, of these functions. ``max_calls`` None: any number."""
        call = self.one(functions, lark)
        more = ""
        if several and self.between is not None:
            between = lark.json(self.between) if self.between.strip() else lark.gap(self.between)
            further = f"({between} {lark.gap('')} {call})"
            more = f"{further}*" if max_calls is None else f"{further}{{0,{max_calls - 1}}}"
        return lark.rule("calls", f"{lark.literal(self.before)} {call} {more} {lark.literal(self.after)}")

    def block(self, *, several: bool) -> CallOpening:
        """The opening of a whole block of calls, from ``before`` to ``after``."""
        return CallOpening(
            text=self.before, rule=lambda functions, lark: self.rule(functions, lark, several=several, max_calls=None)
        )


@dataclass(frozen=True, kw_only=True)
class Family:
    """See the module. ``matches_template`` looks for the family's markers in the text of a chat template."""

    name: str
    matches_template: Callable[[str], bool]
    markup: Callable[[Functions], Markup]
    syntax: CallSyntax
    #: Makes a reply's parser from its prompt; None: a ``MarkupParser``.
    make_parser: Callable[[str, Functions], ReplyParser] | None = None
    #: Makes what may stand before the constrained part of a reply; None: a thought, by ``markup``.
    make_preamble: Callable[[str, str, LarkBuilder], str] | None = None
    #: Makes the modes of a lazily constrained reply; None: by ``markup``.
    make_modes: Callable[[TriggersForMode], tuple[tuple[Trigger, ...], ...]] | None = None
    #: Markers before the text of a reply, after a prompt that hasn't begun a thought.
    text_prefix: str = ""
    #: Brings ids of earlier calls into the template's form.
    call_id: Callable[[str], str] | None = None

    def parser(self, prompt: PromptText, functions: Functions) -> ReplyParser:
        """A parser for the reply to ``prompt``, which may already contain the reply's beginning."""
        if isinstance(prompt, RenderedPrompt) and prompt.reply:
            start = prompt.reply_start or 0
            head = prompt.slice(max(0, start - PROMPT_END), start)
            return ResumedParser(lambda: self.parser(head, functions), self._reply_to_resume(prompt))
        if self.make_parser is not None:
            return self.make_parser(prompt.text, functions)
        return MarkupParser(prompt.text, self.markup(functions))

    def _reply_to_resume(self, prompt: RenderedPrompt) -> str:
        """The reply so far, from the first marker that the template has put before the message's text, if any."""
        before = prompt.reply_markup
        places = [place for marker in self.markup({}).markers if (place := before.find(marker)) >= 0]
        return prompt.reply[min(places, default=len(before)) :]

    def text_prefix_after(self, prompt: str) -> str:
        """The markers between the prompt and the text of a reply: the end of a thought that the prompt opens, say."""
        thought = open_thought(prompt, self.markup({}).thoughts)
        return f"\n{thought.end}\n\n" if thought is not None else self.text_prefix

    def preamble(self, prompt: str, template: str, lark: LarkBuilder) -> str:
        """What may stand before the constrained part of a reply, as a Lark expression; "" for nothing."""
        if self.make_preamble is not None:
            return self.make_preamble(prompt, template, lark)
        return self._thought(prompt, template, lark)

    def _thought(self, prompt: str, template: str, lark: LarkBuilder) -> str:
        space = lark.terminal("space", r"/[ \n\r\t]*/")
        thoughts = self.markup({}).thoughts
        thought = open_thought(prompt, thoughts)
        if thought is not None:
            return f"{lark.until(thought.end)} {space}"
        prompt_end = prompt.rstrip()
        for thought in thoughts:
            if thought.start in template and not prompt_end.endswith(thought.end):
                # The model decides whether it thinks.
                return f"({lark.literal(thought.start)} {lark.until(thought.end)} {space})?"
        return ""
