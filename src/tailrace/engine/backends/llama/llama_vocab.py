"""A model's vocabulary in llama.cpp: texts to tokens and tokens to texts."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.tokenising.jobs import TokenizerInput, total_characters
from tailrace.engine.tokenising.special_tokens import SpecialToken, SpecialTokens
from tailrace.errors import ModelError

_CONTROL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
#: Characters of a request's texts that are tokenised in the engine, where that is safe. llama.cpp's regular expressions
#: take up to 700 bytes of stack for each, and 10 ms for them all: tests/process/test_tokenising.py.
_SHORT = 4096
#: Special tokens in them: behind each of them, llama.cpp makes its regular expressions anew, which takes up to 0.8 ms.
_FEW = 64
#: Pre-tokenizers that are safe with short texts. Those of another kind let llama.cpp abort on some characters (without
#: byte encoding its merges must have no spaces), or take quadratic time with a large factor (deepseek-llm, superbpe).
#: Names that aren't known here take the way that needs no such trust.
_SAFE_PRE = frozenset(
    re.findall(
        r"\S+",
        """
        default llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 minicpm5 deepseek-coder
        deepseek-v3 spark2_5 youtu falcon mpt starcoder gpt-2 phi-2 gigachat a.x-4.0 mellum modern-bert jais-2
        roberta-bpe refact command-r qwen2 deepseek-r1-qwen kormo qwen35 stablelm2 olmo dbrx smaug-bpe poro-chat
        chatglm-bpe glm4 viking jais tekken smollm codeshell bloom gpt3-finnish exaone exaone4 exaone-moe chameleon
        minerva-7b megrez gpt-4o llama4 kanana2 tiny_aya cohere2moe trillion granite-docling bailingmoe bailingmoe2
        llada-moe seed-coder hunyuan hunyuan-dense joyai-llm kimi-k2 grok-2 afmoe laguna minimax-m2 solar-open
        mellum2 ufakzeka
        """,
    )
)


class LlamaVocab:
    """See ``Vocab``. It lives as long as the model that it was made of."""

    def __init__(self, model: llama.llama_model_p) -> None:
        """Raises ModelError when the model has none."""
        vocab = llama.llama_model_get_vocab(model)
        if vocab is None or llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError("the model has no vocabulary")
        self._model = model
        self.pointer = vocab
        self.size: int = llama.llama_vocab_n_tokens(vocab)
        self.bos_text = self.special(llama.llama_vocab_bos(vocab))

    def tokenize(self, text: str, *, special: bool, start: bool) -> list[int]:
        """As llama.cpp does it. Takes quadratic time where there are many special tokens."""
        data = text.encode("utf-8")
        capacity = len(data) + 2
        while True:
            tokens = (llama.llama_token * capacity)()
            count = llama.llama_tokenize(self.pointer, data, len(data), tokens, capacity, start, special)
            if count >= 0:
                return list(tokens[:count])
            capacity = -count

    def stretch(self, text: str) -> list[int]:
        """See ``Vocab``."""
        return self.tokenize(text, special=False, start=False)

    def warm_up(self) -> None:
        """Tokenise something: the first time, llama.cpp makes tables, for up to a second."""
        self.stretch("It's 1.\n")

    @cached_property
    def specials(self) -> SpecialTokens:
        """See ``Vocab``."""
        found: list[SpecialToken] = []
        for token in range(self.size):
            kind = llama.llama_vocab_get_attr(self.pointer, token)
            if kind & (_CONTROL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED):
                found.append(
                    SpecialToken(
                        token,
                        self.text(token),
                        control=bool(kind & _CONTROL),
                        lstrip=bool(kind & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                        rstrip=bool(kind & llama.LLAMA_TOKEN_ATTR_RSTRIP),
                    )
                )
        return SpecialTokens(found)

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """See ``Vocab``. llama.cpp has them as flags that don't hold for every kind of vocabulary: it is asked."""
        empty = self.tokenize("", special=False, start=True)
        text = self.tokenize("a", special=False, start=False)
        whole = self.tokenize("a", special=False, start=True)
        for count in range(len(empty) + 1):
            before, behind = empty[:count], empty[count:]
            if [*before, *text, *behind] == whole:
                return before, behind
        raise ModelError("the tokens around a text can't be told from its own")

    def can_tokenize_inline(self, texts: Sequence[TokenizerInput]) -> bool:
        """Whether these texts of one request can be tokenised in any process: whatever they say, it takes little time
        and stack, and nothing that llama.cpp asserts fails.
        """
        if not self._is_safe or total_characters(texts) > _SHORT:
            return False
        return sum(self.specials.count(text.text) for text in texts) <= _FEW

    @cached_property
    def _is_safe(self) -> bool:
        kind = llama.llama_vocab_type(self.pointer)
        if kind == llama.LLAMA_VOCAB_TYPE_BPE:
            byte_encoded = self._metadata("tokenizer.ggml.model") == "gpt2"
            return byte_encoded and (self._metadata("tokenizer.ggml.pre") or "default") in _SAFE_PRE
        if kind == llama.LLAMA_VOCAB_TYPE_SPM:
            # A byte that has no token is an exception there.
            names = {self.text(token) for token in range(self.size)}
            return all(
                f"<0x{byte:02X}>" in names or bytes([byte]).decode("utf-8", "surrogateescape") in names
                for byte in range(256)
            )
        return bool(kind == llama.LLAMA_VOCAB_TYPE_WPM)

    def text(self, token: int) -> str:
        """The token's own name in the model file."""
        name: bytes = llama.llama_vocab_get_text(self.pointer, token)
        return name.decode("utf-8", "surrogateescape")

    def piece(self, token: int, *, special: bool) -> bytes:
        """The token's bytes in a text; a control token's are empty unless ``special``."""
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        return buffer.raw[:length]

    def special(self, token: int) -> str:
        """A special token's text; empty for none."""
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def _metadata(self, key: str) -> str | None:
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None


def load_vocab(path: Path) -> LlamaVocab:
    """The vocabulary of the model file, without its weights. Raises ModelError."""
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise ModelError(f"llama.cpp can't load the vocabulary of {path}")
    return LlamaVocab(model)
