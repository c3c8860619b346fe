"""Where checkpoints are taken in a prompt."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.kv_cache.checkpoint_positions import MIN_DISTANCE, checkpoint_positions

_START, _END = 1000, 1001
_CONTROL = frozenset({_START, _END})


def _message(length: int) -> list[int]:
    """As in ChatML: a control token, a role, a line break, the text, a control token, a line break."""
    return [_START, 1, 2, *[5] * length, _END, 2]


_HEADER = [_START, 3, 2]


def test_a_first_turn_has_one_behind_the_system_prompt_and_one_before_the_reply() -> None:
    system, question = _message(200), _message(100)
    tokens = [*system, *question, *_HEADER]
    assert checkpoint_positions(tokens, 0, _CONTROL, 512) == [len(system) - 2, len(system) + len(question) - 2]


def test_a_later_turn_has_one_before_the_last_message_and_one_before_the_reply() -> None:
    known = [*_message(200), *_message(100), *_HEADER]
    tokens = [*known, *[6] * 40, _END, 2, *_message(80), *_HEADER]
    assert checkpoint_positions(tokens, len(known), _CONTROL, 512) == [len(known) + 40, len(tokens) - 5]


def test_a_question_of_a_line_has_one_before_it_and_one_behind_it() -> None:
    known = [*_message(200), *_message(100), *_HEADER]
    tokens = [*known, *[6] * 40, _END, 2, *_message(25), *_HEADER]
    assert checkpoint_positions(tokens, len(known), _CONTROL, 512) == [len(known) + 40, len(tokens) - 5]


def test_short_messages_share_one() -> None:
    tokens = [*_message(200), *_message(3), *_HEADER]
    assert checkpoint_positions(tokens, 0, _CONTROL, 512) == [203]
    assert checkpoint_positions([*tokens, *[6] * 10], len(tokens), _CONTROL, 512) == []


def test_a_text_without_messages_has_one_near_its_end_and_some_on_the_way() -> None:
    assert checkpoint_positions([5] * 1500, 0, _CONTROL, 512) == [512, 1024, 1496]
    assert checkpoint_positions([5] * 1500, 0, frozenset(), 1024) == [1024, 1496]


def test_on_the_way_borders_are_preferred() -> None:
    messages = [_message(395) for _ in range(5)]  # Each has 400 tokens.
    tokens = [token for message in messages for token in message]
    assert checkpoint_positions([*tokens, *_HEADER], 0, _CONTROL, 512) == [398, 798, 1198, 1598, 1998]


@given(
    st.lists(st.sampled_from([5, 6, 7, _START, _END]), max_size=300),
    st.integers(0, 300),
    st.integers(MIN_DISTANCE, 600),
)
def test_positions_rise_within_the_prompt_and_are_not_near_each_other(
    tokens: list[int], start: int, interval: int
) -> None:
    start = min(start, len(tokens))
    positions = [start, *checkpoint_positions(tokens, start, _CONTROL, interval)]
    assert all(b - a >= MIN_DISTANCE // 2 or b - a > interval // 2 for a, b in itertools.pairwise(positions))
    assert all(position < len(tokens) for position in positions[1:]), "the last token is always computed"
