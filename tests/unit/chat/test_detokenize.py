"""Tokens to text: nothing lost, nothing made up, wherever tokens end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.chat.detokenize import Detokenizer, PieceTable

#: Text without lone surrogates, which aren't text, and without the replacement character, which is looked for.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"))


def told(pieces: list[bytes]) -> list[str]:
    """What each of the tokens with these bytes brings."""
    detokenizer = Detokenizer(PieceTable(pieces))
    return [detokenizer.feed(token) for token in range(len(pieces))]


@given(TEXT, st.data())
def test_text_split_at_any_bytes_is_the_text(text: str, data: st.DataObject) -> None:
    raw = text.encode()
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=20))
    pieces = [raw[start:end] for start, end in pairwise([0, *sorted(cuts), len(raw)])]
    assert "".join(told(pieces)) == text


@given(TEXT)
def test_text_in_single_bytes_comes_character_by_character(text: str) -> None:
    """A character comes with its last byte: not earlier in parts, not later."""
    brought = told([bytes([byte]) for byte in text.encode()])
    expected = []
    for character in text:
        expected += [""] * (len(character.encode()) - 1) + [character]
    assert brought == expected


@given(st.lists(st.binary(max_size=6)))
def test_bytes_that_are_no_text_are_what_every_decoder_shows(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    shown = "".join(told(pieces))
    expected = whole.decode("utf-8", "replace")
    # A character cut off by the end is dropped; a decoder that sees the end shows it as one replacement character, or
    # two where its first two bytes can't belong together (ED A0 begins a surrogate).
    assert expected in (shown, shown + "\ufffd", shown + "\ufffd\ufffd")


@pytest.mark.parametrize("control", [b""])
def test_a_control_token_within_a_character_changes_nothing(control: bytes) -> None:
    assert told([b"\xc3", control, b"\xa9", b"x"]) == ["", "", "é", "x"]


def test_what_is_cut_off_is_dropped() -> None:
    assert told([b"a", b"\xf0\x9f\x98"]) == ["a", ""]


def test_an_unfinished_character_does_not_swallow_what_follows() -> None:
    assert told([b"\xe6\x97", b"x", "é".encode()]) == ["", "\ufffdx", "é"]
