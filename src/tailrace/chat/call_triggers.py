"""The triggers of a lazily constrained reply, by its family's markup: where calls and thoughts begin and end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tailrace.chat.families.base import CallOpening, Family
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.reply_markup import Markup
from tailrace.chat.reply_parser import open_thought
from tailrace.chat.tools import Function
from tailrace.generation_params import LazyTriggers, Trigger

#: Modes of a reply, by their numbers: its start, the start of its text, its text, after a JSON call. Thoughts follow.
_START, _TEXT_START, _TEXT, _AFTER_CALL = range(4)
_FIRST_THOUGHT = 4


def make_triggers(
    family: Family,
    prompt: str,
    controls: Mapping[str, int],
    functions: Sequence[Function],
    openings: Sequence[CallOpening],
    *,
    optional: bool,
) -> LazyTriggers:
    """The triggers of the reply to ``prompt``. They begin calls in the same places as the reply's parser.

    ``controls``: the model's control tokens, by their text. ``optional`` as in ``LazyTriggers``.
    """
    markup = family.markup({function.name: function for function in functions})
    lark = LarkBuilder(controls)

    def call_triggers(next_mode: int) -> list[Trigger]:
        return [
            Trigger(
                text=opening.text,
                next_mode=next_mode if opening.next_calls is None else _AFTER_CALL,
                grammar_prefix=lark.pieces(opening.text),
                start_pieces=opening.start_pieces,
            )
            for opening in openings
        ]

    first = 0
    if family.make_modes is not None:
        modes = family.make_modes(call_triggers)
    else:
        modes = _modes(markup, call_triggers(_TEXT), next_calls=any(opening.next_calls for opening in openings))
        thought = open_thought(prompt, markup.thoughts)
        first = _START if thought is None else _FIRST_THOUGHT + markup.thoughts.index(thought)
    visible = {controls[marker]: marker for marker in markup.markers if marker in controls}
    visible |= {controls[trigger.text]: trigger.text for mode in modes for trigger in mode if trigger.text in controls}
    return LazyTriggers(modes=modes, first_mode=first, visible_tokens=tuple(visible.items()), optional=optional)


def _modes(markup: Markup, calls: Sequence[Trigger], *, next_calls: bool) -> tuple[tuple[Trigger, ...], ...]:
    """A thought may come at the start, calls with a marker anywhere after it, bare calls where the text starts."""
    marked = [trigger for trigger in calls if not trigger.start_pieces]
    marked += [
        Trigger(text=ignored, next_mode=_TEXT)
        for ignored in markup.ignored
        if all(ignored != call.text for call in calls)
    ]
    bare = [trigger for trigger in calls if trigger.start_pieces]
    # The parser takes each JSON object after a call's object for another call.
    objects = [
        Trigger(text="{", next_mode=_AFTER_CALL, grammar_prefix=("{",), start_pieces=pieces)
        for pieces in (("{",), (";", "{"), (",", "{"))
    ]
    thoughts = [
        Trigger(text=thought.start, next_mode=_FIRST_THOUGHT + number, start_pieces=(thought.start,))
        for number, thought in enumerate(markup.thoughts)
    ]
    in_thoughts = [
        (restart, Trigger(text=thought.end, next_mode=_TEXT_START), *(marked if markup.calls_end_thoughts else ()))
        for restart, thought in zip(thoughts, markup.thoughts, strict=True)
    ]
    return (
        (*thoughts, *bare, *marked),
        (*bare, *marked),
        tuple(marked),
        (*(objects if next_calls else ()), *marked),
        *in_thoughts,
    )
