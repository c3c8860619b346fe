"""Stop strings, against the simplest way to say what they do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.chat.stop_strings import StopMatcher

#: Few letters, so that stop strings occur, overlap and begin in vain.
PIECES = st.lists(st.text("abc", max_size=4), max_size=12)
STOPS = st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3)


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    out = ""
    for piece in pieces:
        text, stopped = matcher.feed(piece)
        out += text
        if stopped:
            return out, True
    return out + matcher.finish(), False


def oracle(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """Read piece by piece; the first piece after which the text has a stop string cuts it there."""
    text = ""
    for piece in pieces:
        text += piece
        if found := [text.index(stop) for stop in stops if stop in text]:
            return text[: min(found)], True
    return text, False


@given(STOPS, PIECES)
def test_like_the_oracle(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == oracle(stops, pieces)


@given(STOPS, st.text("abc", max_size=30))
def test_nothing_is_held_back_but_what_may_become_a_stop_string(stops: list[str], text: str) -> None:
    matcher = StopMatcher(stops)
    out = ""
    for length, character in enumerate(text, 1):
        piece, stopped = matcher.feed(character)
        out += piece
        if stopped:
            return
        held = text[len(out) : length]
        assert out + held == text[:length]
        assert not held or any(stop.startswith(held) for stop in stops)
        longer = [text[start:length] for start in range(len(out))]
        assert not any(stop.startswith(end) for stop in stops for end in longer), "let out too early"


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_stop_string_over_two_pieces(cut: int) -> None:
    text = "one END two"
    assert run(["END"], [text[:cut], text[cut:]]) == ("one ", True)


@pytest.mark.parametrize(("text", "found"), [("xbca", "bc"), ("xcab", "ca"), ("xbaa", None)])
def test_which_stop_string_it_was(text: str, found: str | None) -> None:
    """The one that begins first, wherever it stands in the list."""
    matcher = StopMatcher(["ca", "bc"])
    matcher.feed(text)
    assert matcher.found == found


def test_characters_of_several_bytes() -> None:
    assert run(["。"], ["你好", "。再见"]) == ("你好", True)
    assert run(["👍🏽"], ["a👍", "b"]) == ("a👍b", False)
