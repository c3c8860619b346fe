"""WordPiece, the tokenizer of BERT's vocabularies, as the models' own tokenizers compute it.

llama.cpp's differs from them: it doesn't decompose Hangul, drops spacing marks of Indic scripts, and divides words that
are too long. The rules are those of ``BertNormalizer``, ``BertPreTokenizer`` and ``WordPiece`` in Hugging Face's
library tokenizers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

#: The mark of pieces that begin a word, in GGUF files.
_WORD_START = "\u2581"
#: Characters of a word, at most. A longer word is one unknown token.
_MAX_WORD = 100
#: Ideographs, each of which is a word.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
#: Controls, formats, private and half characters.
_DROPPED = frozenset({"Cc", "Cf", "Co", "Cs"})
#: Characters whose forms are kept. A text may have each of a million.
_MAX_FORMS = 65_536


class WordPiece:
    """See the module."""

    def __init__(self, pieces: Mapping[str, int], unknown: int, *, lowercase: bool, strips_accents: bool) -> None:
        """``pieces``: tokens by their names in a GGUF file, without control tokens. ``unknown``: the token of words
        that no pieces make up.
        """
        self._starts = {name[1:]: token for name, token in pieces.items() if name.startswith(_WORD_START)}
        self._inner = {name: token for name, token in pieces.items() if not name.startswith(_WORD_START)}
        self._longest = max(map(len, pieces), default=1)
        self._unknown = unknown
        self._strips_accents = strips_accents
        self._forms = _Forms(lowercase=lowercase, strips_accents=strips_accents)

    def tokenize(self, text: str) -> list[int]:
        """The text's tokens. Takes time in proportion to the text."""
        if self._strips_accents:
            text = unicodedata.normalize("NFD", text)
        tokens: list[int] = []
        for word in text.translate(self._forms).split(" "):
            if word:
                tokens += self._tokens_of(word)
        return tokens

    def _tokens_of(self, word: str) -> list[int]:
        """The longest piece at the word's start, the longest one behind it, and so on."""
        length = len(word)
        if length > _MAX_WORD:
            return [self._unknown]
        tokens: list[int] = []
        pieces, start = self._starts, 0
        while start < length:
            for end in range(min(length, start + self._longest), start, -1):
                token = pieces.get(word[start:end])
                if token is not None:
                    break
            else:
                return [self._unknown]
            tokens.append(token)
            pieces, start = self._inner, end
        return tokens


class _Forms(dict[int, str]):
    """What becomes of each character, by its number: nothing, a space, a word of its own, or itself."""

    def __init__(self, *, lowercase: bool, strips_accents: bool) -> None:
        super().__init__()
        self._lowercase = lowercase
        self._strips_accents = strips_accents

    def __missing__(self, code: int) -> str:
        form = self._form(chr(code))
        if len(self) < _MAX_FORMS:
            self[code] = form
        return form

    def _form(self, character: str) -> str:
        category = unicodedata.category(character)
        if character in "\t\n\r":
            return " "
        if character == "\ufffd" or category in _DROPPED:
            return ""
        if character.isspace():
            return " "
        if category == "Mn" and self._strips_accents:
            return ""
        code = ord(character)
        if character in _ASCII_PUNCTUATION or category.startswith("P"):
            return f" {character} "
        if any(first <= code <= last for first, last in _IDEOGRAPHS):
            return f" {character} "
        # One by one: in a whole word the last sigma would be another letter.
        return character.lower() if self._lowercase else character
