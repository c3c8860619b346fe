"""The vocabulary of a model: copied from a file, or one of bytes for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import msgspec


class Vocabulary(msgspec.Struct, frozen=True):
    """The words, and the file's fields that describe them."""

    words: list[str]
    #: Key, value, kind, and kind of a list's elements.
    fields: list[tuple[str, Any, gguf.GGUFValueType, gguf.GGUFValueType | None]]

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Add the fields to a file's header."""
        for key, value, kind, elements in self.fields:
            writer.add_key_value(key, value, kind, sub_type=elements)


def copied_vocabulary(path: Path, size: int = 0) -> Vocabulary:
    """The vocabulary of a GGUF file, with unused words up to ``size``."""
    source = gguf.GGUFReader(path)
    words: list[str] = source.fields["tokenizer.ggml.tokens"].contents()
    more = [f"<unused {number}>" for number in range(size - len(words))]
    # What each further word has in the lists that go word by word.
    fillers: dict[str, list[Any]] = {
        "tokens": more,
        "token_type": [int(gguf.TokenType.UNUSED)] * len(more),
        "scores": [0.0] * len(more),
    }
    fields = []
    for key, field in source.fields.items():
        if key.startswith("tokenizer."):
            value = field.contents()
            if more and key.rpartition(".")[2] in fillers:
                value = [*value, *fillers[key.rpartition(".")[2]]]
            fields.append((key, value, field.types[0], field.types[-1] if len(field.types) > 1 else None))
    return Vocabulary(words + more, fields)


def byte_vocabulary() -> Vocabulary:
    """A word for each byte; their number is a multiple of 16, as the rows of repacked weights are."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"<{word}>" for word in range(13))]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.UNUSED] * 13
    array, string, number = gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING, gguf.GGUFValueType.UINT32
    return Vocabulary(
        words,
        [
            ("tokenizer.ggml.model", "llama", string, None),
            ("tokenizer.ggml.tokens", words, array, string),
            ("tokenizer.ggml.scores", [0.0] * len(words), array, gguf.GGUFValueType.FLOAT32),
            ("tokenizer.ggml.token_type", [int(kind) for kind in kinds], array, gguf.GGUFValueType.INT32),
            ("tokenizer.ggml.bos_token_id", 1, number, None),
            ("tokenizer.ggml.eos_token_id", 2, number, None),
        ],
    )


def is_plain(word: str) -> bool:
    """Whether a token is ASCII letters, perhaps after a space (which byte-level vocabularies write as Ġ)."""
    letters = word.removeprefix("Ġ").removeprefix("▁")
    return letters.isascii() and letters.isalpha()
