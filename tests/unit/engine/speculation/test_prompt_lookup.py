"""Prompt lookup: where guesses come from, and how often they were right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.speculation.acceptance import LEVELS, Acceptance
from tailrace.engine.speculation.prompt_lookup import PromptLookup


def ready(tokens: list[int], prediction: list[int] | None = None) -> PromptLookup:
    lookup = PromptLookup(tokens, prediction or [])
    while not lookup.prepare():
        pass
    return lookup


def test_what_followed_the_last_three_tokens_before_is_guessed() -> None:
    lookup = ready([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.draft(4) == [4, 5, 9, 1]


def test_the_latest_occurrence_counts() -> None:
    assert ready([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1) == [5]


def test_nothing_is_guessed_where_nothing_repeats() -> None:
    lookup = ready(list(range(50)))
    assert not lookup.found
    assert lookup.draft(4) == []
    assert lookup.append(60) is None


def test_a_loop_is_guessed_to_go_on() -> None:
    assert ready([7, 8, 7, 8, 7, 8]).draft(7) == [7, 8, 7, 8, 7, 8, 7]


def test_a_copy_with_one_token_changed_goes_on_behind_the_change() -> None:
    lookup = ready([*range(100, 140), 100, 101, 102])
    for token in range(103, 120):
        assert lookup.append(token) is True
    assert lookup.run == 17
    assert lookup.append(999) is False
    assert lookup.run == 4
    assert lookup.draft(2) == [121, 122]


def test_a_prediction_is_guessed_from_its_start_and_ends_at_its_end() -> None:
    lookup = ready([1, 2, 3], [50, 51, 52])
    assert lookup.draft(9) == [50, 51, 52]
    assert [lookup.append(token) for token in (50, 51, 52)] == [True, True, True]
    assert lookup.draft(9) == []


def test_a_long_prompt_is_indexed_piece_by_piece() -> None:
    tokens = [*range(10_000), 5, 6, 7]
    lookup = PromptLookup(tokens)
    assert not lookup.prepare()
    assert not lookup.found
    assert lookup.append(8) is None, "a token that comes meanwhile is indexed with the others"
    while not lookup.prepare():
        pass
    assert lookup.draft(2) == [9, 10]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=80), st.integers(1, 20))
def test_a_guess_is_judged_as_it_was_made(prompt: list[int], reply: list[int], length: int) -> None:
    lookup = ready(prompt)
    text = list(prompt)
    for token in reply:
        draft = lookup.draft(length)
        assert draft[:3] == lookup.draft(min(3, length))
        assert set(draft) <= set(text)
        verdict = lookup.append(token)
        assert verdict == (draft[0] == token if draft else None)
        text.append(token)


def test_chances_follow_what_was_seen_of_a_sequence_and_of_all() -> None:
    everyone = Acceptance((0.5,) * LEVELS)
    one, other = Acceptance(everyone), Acceptance(everyone)
    assert one.chance(0) == pytest.approx(0.5)
    for _ in range(100):
        one.observe(0, False)
        one.observe(70, True)
    assert one.chance(0) < 0.1
    assert one.chance(70) > 0.9
    assert 0.05 < other.chance(0) < 0.3, "another sequence starts from what all have shown"
    assert one.survival(70, 3) == pytest.approx([one.chance(70) ** power for power in (1, 2, 3)])
    assert one.survival(0, 2)[1] < one.chance(0)
