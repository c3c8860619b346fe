"""WordPiece on a small vocabulary. ``tests/process/test_minilm.py`` compares a whole one with the original."""

from __future__ import annotations

import time

import pytest

from tailrace.engine.tokenising.word_piece import WordPiece

NAMES = [
    "▁the",
    "▁cat",
    "s",
    "▁c",
    "▁a",
    "t",
    "▁,",
    "▁!",
    "▁你",
    "▁好",
    "▁A",
    "▁é",
    "▁e",
    "▁[",
    "▁σ",
    "σ",
    "▁ᄒ",
    "ᅡ",
    "ᆫ",
]
PIECES = {name: token for token, name in enumerate(NAMES, 1)}
UNKNOWN = 99


def tokens(text: str, *, lowercase: bool = True, strips_accents: bool = True) -> list[str]:
    made = WordPiece(PIECES, UNKNOWN, lowercase=lowercase, strips_accents=strips_accents)
    return ["?" if token == UNKNOWN else NAMES[token - 1] for token in made.tokenize(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\r\n\u00a0\u3000", []),
        ("The cats", ["▁the", "▁cat", "s"]),
        ("the\ncat", ["▁the", "▁cat"]),
        ("cat,the!", ["▁cat", "▁,", "▁the", "▁!"]),
        ("ctt", ["▁c", "t", "t"]),
        ("dog", ["?"]),
        ("catx the", ["?", "▁the"]),
        ("你好", ["▁你", "▁好"]),
        ("a\u200bt\x00\ufffd", ["▁a", "t"]),
        ("É e\u0301", ["▁e", "▁e"]),
        ("ΣΣ", ["▁σ", "σ"]),
        ("한", ["▁ᄒ", "ᅡ", "ᆫ"]),
        ("t" * 101, ["?"]),
        ("a" + "t" * 99, ["▁a", *"t" * 99]),
        ("a" + "t" * 100, ["?"]),
        ("\ud800", []),
    ],
)
def test_texts_become_the_longest_pieces(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_case_and_accents_stay_where_the_vocabulary_has_them() -> None:
    assert tokens("A a", lowercase=False) == ["▁A", "▁a"]
    assert tokens("é É", lowercase=True, strips_accents=False) == ["▁é", "▁é"]
    assert tokens("The", lowercase=False) == ["?"]


def test_long_texts_and_every_character_take_linear_time() -> None:
    made = WordPiece(PIECES, UNKNOWN, lowercase=True, strips_accents=True)
    begun = time.monotonic()
    assert made.tokenize("q" * 1_000_000) == [UNKNOWN]
    assert len(made.tokenize(("q" * 100 + " ") * 1_000)) == 1_000
    made.tokenize("".join(map(chr, range(0, 0x110000, 11))))
    assert time.monotonic() - begun < 60  # Quadratic time takes hours.
