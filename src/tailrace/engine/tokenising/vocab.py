"""A whole text's tokens from a vocabulary that tokenises stretches without special tokens."""

from __future__ import annotations

from typing import Protocol

from tailrace.engine.tokenising.jobs import TokenizerInput
from tailrace.engine.tokenising.special_tokens import SpecialTokens


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
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the model wants before a text and behind it."""
        ...

    def stretch(self, text: str) -> list[int]:
        """Tokens of ``text``, which isn't empty and has no special token, as it stands at a text's beginning or behind
        a special token.
        """
        ...


def adds_affixes(bos_text: str, text: TokenizerInput) -> bool:
    """Whether ``text`` gets the tokens that the model wants around one: not if it begins with the start token, unless
    it says so.
    """
    if text.add_special is not None:
        return text.add_special
    written = bool(bos_text) and text.text.startswith(bos_text)
    return not (written and not any(start < len(bos_text) for start, _ in text.literal_spans))


def tokens_of(vocab: Vocab, text: TokenizerInput) -> list[int]:
    """The text's tokens. Takes a time that is linear in the text, as long as ``vocab.stretch`` does."""
    before, behind = vocab.around if adds_affixes(vocab.bos_text, text) else ([], [])
    tokens = [*before]
    #: Templates write the same between special tokens over and over ("user\\n", "\\n").
    known: dict[str, list[int]] = {}
    for piece in vocab.specials.split(text.text, special=text.parse_special, literal_spans=text.literal_spans):
        if isinstance(piece, int):
            tokens.append(piece)
            continue
        if len(piece) > _REMEMBERED:
            tokens += vocab.stretch(piece)
            continue
        if piece not in known:
            known[piece] = vocab.stretch(piece)
        tokens += known[piece]
    return [*tokens, *behind]


#: Characters of a stretch that is remembered: longer ones hardly ever come again.
_REMEMBERED = 64
