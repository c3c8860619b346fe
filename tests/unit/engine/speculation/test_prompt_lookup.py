"""Prompt lookup: where draft tokens come from, and whether they were right."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.speculation.prompt_lookup import PromptLookup


def indexed(tokens: list[int], prediction: list[int] | None = None) -> PromptLookup:
    lookup = PromptLookup(tokens, prediction or [])
    while not lookup.index_more():
        pass
    return lookup


def test_the_tokens_behind_a_match_are_drafted() -> None:
    lookup = indexed([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.draft(4) == [4, 5, 9, 1]


def test_the_latest_occurrence_counts() -> None:
    assert indexed([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1) == [5]


def test_nothing_is_drafted_without_a_match() -> None:
    lookup = indexed(list(range(50)))
    assert not lookup.has_match
    assert lookup.draft(4) == []
    assert lookup.append(60) is None


def test_a_loop_is_drafted_to_go_on() -> None:
    assert indexed([7, 8, 7, 8, 7, 8]).draft(7) == [7, 8, 7, 8, 7, 8, 7]


def test_a_copy_with_one_token_changed_goes_on_behind_the_change() -> None:
    lookup = indexed([*range(100, 140), 100, 101, 102])
    for token in range(103, 120):
        assert lookup.append(token) is True
    assert lookup.run == 17
    assert lookup.append(999) is False
    assert lookup.run == 4
    assert lookup.draft(2) == [121, 122]


def test_a_prediction_is_drafted_from_its_start_to_its_end() -> None:
    lookup = indexed([1, 2, 3], [50, 51, 52])
    assert lookup.draft(9) == [50, 51, 52]
    assert [lookup.append(token) for token in (50, 51, 52)] == [True, True, True]
    assert lookup.draft(9) == []


def test_a_long_prompt_is_indexed_in_chunks() -> None:
    tokens = [*range(10_000), 5, 6, 7]
    lookup = PromptLookup(tokens)
    assert not lookup.index_more()
    assert not lookup.has_match
    assert lookup.append(8) is None, "a token that comes meanwhile is indexed with the others"
    while not lookup.index_more():
        pass
    assert lookup.draft(2) == [9, 10]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=80), st.integers(1, 20))
def test_append_says_whether_the_draft_was_right(prompt: list[int], reply: list[int], length: int) -> None:
    lookup = indexed(prompt)
    text = list(prompt)
    for token in reply:
        draft = lookup.draft(length)
        assert draft[:3] == lookup.draft(min(3, length))
        assert set(draft) <= set(text)
        verdict = lookup.append(token)
        assert verdict == (draft[0] == token if draft else None)
        text.append(token)
