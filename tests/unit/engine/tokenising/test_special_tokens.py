"""Special tokens are found as llama.cpp finds them: one after the other, the longest first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.engine.tokenising.special_tokens import Pieces, SpecialToken, SpecialTokens
from tailrace.prompt_text import Span

Free = tuple[int, int] | int  #: a stretch of text, or a token


def one_after_the_other(
    tokens: list[SpecialToken], text: str, *, special: bool, literal_spans: tuple[Span, ...]
) -> Pieces:
    """What llama.cpp does, in the time that it takes."""
    parts: list[Free] = [(0, len(text))] if text else []
    for token in sorted(tokens, key=lambda token: -len(token.text.encode())):
        if token.control and not special:
            continue
        done: list[Free] = []
        for part in parts:
            done += [part] if isinstance(part, int) else _looked_for(token, text, part, literal_spans)
        parts = done
    return [part if isinstance(part, int) else text[slice(*part)] for part in parts]


def _looked_for(token: SpecialToken, text: str, part: tuple[int, int], literal_spans: tuple[Span, ...]) -> list[Free]:
    start, stop = part
    found: list[Free] = []
    at = start
    while (at := text.find(token.text, at, stop)) >= 0:
        end = at + len(token.text)
        if token.control and any(begin < end and at < last for begin, last in literal_spans):
            at += 1
            continue
        left = at
        while token.lstrip and left > start and text[left - 1] in " \n":
            left -= 1
        if left > start:
            found.append((start, left))
        found.append(token.id)
        while token.rstrip and end < stop and text[end] in " \n":
            end += 1
        start = at = end
    return [*found, (start, stop)] if start < stop else found


_texts = st.text("ab<> \n", min_size=1, max_size=5)
_vocabularies = st.lists(
    st.tuples(_texts, st.booleans(), st.booleans(), st.booleans()), max_size=8, unique_by=lambda entry: entry[0]
)


@given(_vocabularies, st.text("ab<> \n", max_size=40), st.booleans(), st.lists(st.integers(0, 40), max_size=4))
def test_every_place_is_given_to_the_token_that_llama_cpp_gives_it_to(
    vocabulary: list[tuple[str, bool, bool, bool]], text: str, special: bool, bounds: list[int]
) -> None:
    tokens = [SpecialToken(number, *entry) for number, entry in enumerate(vocabulary)]
    places = sorted(min(bound, len(text)) for bound in bounds)
    literal_spans = tuple(zip(places[::2], places[1::2], strict=False))
    found = SpecialTokens(tokens).split(text, special=special, literal_spans=literal_spans)
    assert found == one_after_the_other(tokens, text, special=special, literal_spans=literal_spans)


def test_what_is_text_and_what_means_something() -> None:
    specials = SpecialTokens([SpecialToken(1, "<a>"), SpecialToken(2, "<ab>"), SpecialToken(3, "  ", control=False)])
    assert specials.split("") == []
    assert specials.split("x<ab>y<a>  z") == ["x", 2, "y", 1, 3, "z"]
    assert specials.split("x<ab>y<a>  z", special=False) == ["x<ab>y<a>", 3, "z"]
    assert specials.split("<a><a>", literal_spans=((3, 6),)) == [1, "<a>"]
    assert specials.count("<a> <ab><b>") == 2


@pytest.mark.parametrize("count", [0, 1, 300])
def test_any_number_of_tokens_makes_a_pattern(count: int) -> None:
    names = [f"<|token_{number}|>" for number in range(count)]
    specials = SpecialTokens(SpecialToken(number, name) for number, name in enumerate(names))
    assert specials.split("".join(names)) == list(range(count))
    assert specials.split("x") == ["x"]
