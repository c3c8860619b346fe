"""Tokenises a whole text with a vocabulary that can tokenise segments without special tokens."""

from __future__ import annotations

from typing import Protocol

from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.special_tokens import SpecialTokens

#: Characters of a segment that is cached: longer ones are hardly ever repeated.
_MAX_CACHED_SEGMENT = 64


class Vocab(Protocol):
    """A model's vocabulary."""

    @property
    def specials(self) -> SpecialTokens:
        """Its special tokens."""
        ...

    @property
    def bos_text(self) -> str:
        """The start token's text; empty where there is none."""
        ...

    @property
    def affixes(self) -> tuple[list[int], list[int]]:
        """The tokens that the model wants before a text and after it."""
        ...

    def tokenize_segment(self, text: str) -> list[int]:
        """Tokens of ``text``, which isn't empty and contains no special token, as it stands at a text's beginning or
        after a special token.
        """
        ...


def adds_affixes(bos_text: str, text: TokenizerInput) -> bool:
    """Whether ``text`` gets the vocabulary's ``affixes``. By default: unless it begins with the start token itself."""
    if text.add_special is not None:
        return text.add_special
    starts_with_bos = bool(bos_text) and text.text.startswith(bos_text)
    return not (starts_with_bos and not any(start < len(bos_text) for start, _ in text.literal_spans))


def tokens_of(vocab: Vocab, text: TokenizerInput) -> list[int]:
    """The text's tokens. The time is linear in the text, as long as ``vocab.tokenize_segment``'s is."""
    before, after = vocab.affixes if adds_affixes(vocab.bos_text, text) else ([], [])
    tokens = [*before]
    #: Templates repeat the same segments between special tokens ("user\\n", "\\n").
    cache: dict[str, list[int]] = {}
    for piece in vocab.specials.split(text.text, special=text.parse_special, literal_spans=text.literal_spans):
        if isinstance(piece, int):
            tokens.append(piece)
            continue
        if len(piece) > _MAX_CACHED_SEGMENT:
            tokens += vocab.tokenize_segment(piece)
            continue
        if piece not in cache:
            cache[piece] = vocab.tokenize_segment(piece)
        tokens += cache[piece]
    return [*tokens, *after]
