"""At which lengths of a prompt checkpoints are taken. Pure policy over its tokens.

A step has to end where a checkpoint is taken, and a short step costs nearly as much as a long one. So few positions are
exact: those to which the next request most likely goes back.

- *The last border*: where the reply's header begins. A reply that is made anew, and the next turn of a conversation
  whose thinking is left out, go on there.
- *The border before it*: where the last message begins. An edit of that message goes on there.
- *The first border*: the end of the system prompt, with which other conversations start.

Between them there is one about every ``interval`` tokens: at a border where there is one near.

A border is where control tokens stand: every chat template marks messages with them, and texts of users have none.
"""

from __future__ import annotations

#: Checkpoints nearer than this aren't taken: computing the tokens again costs about as much as a few short steps.
MIN_DISTANCE = 32
#: Tokens of the last message for which there is one before it and one behind it.
_MIN_MESSAGE = 16
#: Control tokens this near to each other belong to one border: ``<|im_end|>``, a line break, ``<|im_start|>``.
_MAX_GAP = 4
#: The reply's header is at most so long. A prompt without one, or without control tokens, ends with a text.
_MAX_HEADER = 64
#: What is computed anew of such a prompt. The last tokens of a text may be others where it goes on.
_TEXT_END = 4


def checkpoint_positions(tokens: list[int], start: int, control: frozenset[int], interval: int) -> list[int]:
    """The lengths of ``tokens``, rising, at which checkpoints are to be taken, when computing begins at ``start``.

    ``control``: the tokens that mark messages. ``interval``: tokens between checkpoints, about.
    """
    borders = _borders(tokens, start, control)
    exact = _exact(tokens, start, borders)
    positions: list[int] = []
    at = start
    for end in [*exact, len(tokens)]:
        while end - at >= interval + MIN_DISTANCE:
            near = [border for border in borders if at + interval // 2 < border <= at + interval]
            at = near[-1] if near else at + interval
            positions.append(at)
        at = end
        positions.append(end)
    return positions[:-1]


def _exact(tokens: list[int], start: int, borders: list[int]) -> list[int]:
    """The positions at which a step ends in any case."""
    length = len(tokens)
    has_header = bool(borders) and length - borders[-1] <= _MAX_HEADER
    last = borders[-1] if has_header else length - _TEXT_END
    before = borders[:-1] if has_header else borders
    chosen = [start]
    for position in (*before[:1], *before[-1:]):
        if position - chosen[-1] >= MIN_DISTANCE:
            chosen.append(position)
    if last - chosen[-1] >= (_MIN_MESSAGE if len(chosen) > 1 else MIN_DISTANCE):
        chosen.append(last)
    return chosen[1:]


def _borders(tokens: list[int], start: int, control: frozenset[int]) -> list[int]:
    """Where groups of control tokens begin behind ``start``."""
    borders: list[int] = []
    last = -1 - _MAX_GAP
    for place in range(start, len(tokens)):
        if tokens[place] in control:
            if place - last > _MAX_GAP and place > start:
                borders.append(place)
            last = place
    return borders
