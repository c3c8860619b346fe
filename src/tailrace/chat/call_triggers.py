"""How a reply that is free is watched for the beginnings of calls, by its family's markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tailrace.chat.families.family import CallOpening, Family
from tailrace.chat.lark_builder import LarkBuilder
from tailrace.chat.markup import Markup
from tailrace.chat.reply_parser import open_thought
from tailrace.chat.tools import Function
from tailrace.protocol import Trigger, Watch

#: Modes of a reply, by their numbers; those of thoughts come behind.
_START, _REPLY, _TEXT, _CALLED = range(4)
_THOUGHTS = 4


def make_triggers(
    family: Family,
    prompt: str,
    controls: Mapping[str, int],
    functions: Sequence[Function],
    openings: Sequence[CallOpening],
    *,
    optional: bool,
) -> Watch:
    """The watch over the reply to ``prompt``. It sees what the reply's parser sees, in the same places.

    ``controls``: the model's control tokens, by their text. ``optional`` as in ``Watch``.
    """
    markup = family.markup({function.name: function for function in functions})
    lark = LarkBuilder(controls)

    def triggers(goes: int) -> list[Trigger]:
        return [
            Trigger(
                text=opening.text,
                goes=goes if opening.further is None else _CALLED,
                opens=lark.pieces(opening.text),
                pieces=opening.pieces,
            )
            for opening in openings
        ]

    first = 0
    if family.make_modes is not None:
        modes = family.make_modes(triggers)
    else:
        modes = _modes(markup, triggers(_TEXT), further=any(opening.further for opening in openings))
        thought = open_thought(prompt, markup.thoughts)
        first = _START if thought is None else _THOUGHTS + markup.thoughts.index(thought)
    shown = {controls[marker]: marker for marker in markup.markers if marker in controls}
    shown |= {controls[trigger.text]: trigger.text for mode in modes for trigger in mode if trigger.text in controls}
    return Watch(modes=modes, first=first, shown=tuple(shown.items()), optional=optional)


def _modes(markup: Markup, calls: Sequence[Trigger], *, further: bool) -> tuple[tuple[Trigger, ...], ...]:
    """A thought may stand at the start, calls anywhere behind it, and bare ones where the reply begins."""
    marked = [trigger for trigger in calls if not trigger.pieces]
    marked += [Trigger(text=noise, goes=_TEXT) for noise in markup.noise if all(noise != call.text for call in calls)]
    bare = [trigger for trigger in calls if trigger.pieces]
    # Behind a call's object every other is a call as well, for the parser.
    objects = [
        Trigger(text="{", goes=_CALLED, opens=("{",), pieces=pieces) for pieces in (("{",), (";", "{"), (",", "{"))
    ]
    thoughts = [
        Trigger(text=thought.opens, goes=_THOUGHTS + number, pieces=(thought.opens,))
        for number, thought in enumerate(markup.thoughts)
    ]
    within = [
        (again, Trigger(text=thought.ends, goes=_REPLY), *(marked if markup.calls_end_thoughts else ()))
        for again, thought in zip(thoughts, markup.thoughts, strict=True)
    ]
    return (
        (*thoughts, *bare, *marked),
        (*bare, *marked),
        tuple(marked),
        (*(objects if further else ()), *marked),
        *within,
    )
