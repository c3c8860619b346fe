"""A model's vocabulary in llama.cpp: texts to tokens, tokens to texts, and the tokens with a special role."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import llama_cpp.llama_cpp as llama

from tailrace.engine.backends.base import RankFormat
from tailrace.engine.backends.llama.model_metadata import Metadata
from tailrace.engine.backends.llama.model_params import override_array
from tailrace.engine.tokenising.jobs import TokenizerInput, total_characters
from tailrace.engine.tokenising.special_tokens import SpecialToken, SpecialTokens
from tailrace.engine.tokenising.vocab import tokens_of
from tailrace.engine.tokenising.word_piece import WordPiece
from tailrace.errors import ModelError
from tailrace.models.metadata_override import MetadataOverride

_CONTROL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
#: Characters of a request's texts that may be tokenised in the engine. llama.cpp's regular expressions take up to 700
#: bytes of stack for each (tests/process/test_tokenising.py).
_MAX_INLINE_CHARACTERS = 4096
#: Special tokens in these texts. After each, llama.cpp compiles its regular expressions again: up to 0.8 ms.
_MAX_INLINE_SPECIALS = 64
#: Pre-tokenizers that are safe with short texts. The others let llama.cpp abort on some characters, or take quadratic
#: time. A name that isn't in this list counts as unsafe.
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
    """See ``Vocab``. It is valid until the model that it was made from is freed."""

    def __init__(self, model: llama.llama_model_p, metadata: Metadata) -> None:
        """Raises ModelError when the model has no vocabulary."""
        vocab = llama.llama_model_get_vocab(model)
        if vocab is None or llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError("the model has no vocabulary")
        self._metadata = metadata
        self.pointer = vocab
        self.size: int = llama.llama_vocab_n_tokens(vocab)
        self.bos_text = self.special_text(llama.llama_vocab_bos(vocab))

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool) -> list[int]:
        """Tokens of the text. Those of WordPiece are computed here; llama.cpp computes the others, in quadratic time in
        the number of special tokens.
        """
        if self._word_pieces is not None:
            return tokens_of(self, TokenizerInput(text, parse_special=parse_special, add_special=add_special))
        return self._upstream_tokens(text, parse_special=parse_special, add_special=add_special)

    def _upstream_tokens(self, text: str, *, parse_special: bool, add_special: bool) -> list[int]:
        data = text.encode("utf-8")
        capacity = len(data) + 2
        while True:
            tokens = (llama.llama_token * capacity)()
            count = llama.llama_tokenize(self.pointer, data, len(data), tokens, capacity, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            capacity = -count

    def tokenize_segment(self, text: str) -> list[int]:
        """See ``Vocab``."""
        if self._word_pieces is not None:
            return self._word_pieces.tokenize(text)
        return self._upstream_tokens(text, parse_special=False, add_special=False)

    @property
    def has_word_pieces(self) -> bool:
        """Whether it is a WordPiece vocabulary."""
        return bool(llama.llama_vocab_type(self.pointer) == llama.LLAMA_VOCAB_TYPE_WPM)

    @cached_property
    def _word_pieces(self) -> WordPiece | None:
        """The tokenizer of a WordPiece vocabulary; None for others."""
        if not self.has_word_pieces:
            return None
        lowercase = self._metadata.value("tokenizer.ggml.normalizer.lowercase") or "true"
        strips_accents = self._metadata.value("tokenizer.ggml.normalizer.strip_accents") or lowercase
        names = {
            self.token_name(token): token
            for token in range(self.size)
            if not llama.llama_vocab_get_attr(self.pointer, token) & _CONTROL
        }
        # llama.cpp has no function that tells it, and takes 100 where the file doesn't say.
        unknown = int(self._metadata.value("tokenizer.ggml.unknown_token_id") or 100)
        return WordPiece(names, unknown, lowercase=lowercase == "true", strips_accents=strips_accents == "true")

    def warm_up(self) -> None:
        """Tokenise a few words: llama.cpp makes its tables at the first text, which takes up to a second."""
        self.tokenize_segment("It's 1.\n")

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
                        self.token_name(token),
                        control=bool(kind & _CONTROL),
                        lstrip=bool(kind & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                        rstrip=bool(kind & llama.LLAMA_TOKEN_ATTR_RSTRIP),
                    )
                )
        return SpecialTokens(found)

    @cached_property
    def affixes(self) -> tuple[list[int], list[int]]:
        """See ``Vocab``. llama.cpp's flags aren't right for each kind of vocabulary, so texts are compared."""
        empty = self._upstream_tokens("", parse_special=False, add_special=True)
        text = self._upstream_tokens("a", parse_special=False, add_special=False)
        whole = self._upstream_tokens("a", parse_special=False, add_special=True)
        for count in range(len(empty) + 1):
            before, after = empty[:count], empty[count:]
            if [*before, *text, *after] == whole:
                return before, after
        raise ModelError("the tokens around a text can't be distinguished from its own")

    def can_tokenize_inline(self, texts: Sequence[TokenizerInput]) -> bool:
        """Whether these texts of one request can be tokenised in the engine: it takes little time and stack, and no
        assertion of llama.cpp fails, whatever the texts say.
        """
        if not self._is_safe or total_characters(texts) > _MAX_INLINE_CHARACTERS:
            return False
        return sum(self.specials.count(text.text) for text in texts) <= _MAX_INLINE_SPECIALS

    @cached_property
    def _is_safe(self) -> bool:
        kind = llama.llama_vocab_type(self.pointer)
        if kind == llama.LLAMA_VOCAB_TYPE_BPE:
            byte_encoded = self._metadata.value("tokenizer.ggml.model") == "gpt2"
            return byte_encoded and (self._metadata.value("tokenizer.ggml.pre") or "default") in _SAFE_PRE
        if kind == llama.LLAMA_VOCAB_TYPE_SPM:
            # llama.cpp throws an exception at a byte that has no token.
            names = {self.token_name(token) for token in range(self.size)}
            return all(
                f"<0x{byte:02X}>" in names or bytes([byte]).decode("utf-8", "surrogateescape") in names
                for byte in range(256)
            )
        return bool(kind == llama.LLAMA_VOCAB_TYPE_WPM)

    def token_name(self, token: int) -> str:
        """The token's name in the model file."""
        name: bytes = llama.llama_vocab_get_text(self.pointer, token)
        return name.decode("utf-8", "surrogateescape")

    def piece(self, token: int, *, special: bool) -> bytes:
        """The token's bytes in text. A control token has none unless ``special``."""
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, special)
        return buffer.raw[:length]

    def special_text(self, token: int) -> str:
        """A special token's text; empty for a negative token, which stands for none."""
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""

    def all_pieces(self) -> list[bytes]:
        """Each token's bytes in text, by token; empty for control tokens."""
        # One buffer for all: making one takes most of a call's time.
        buffer = ctypes.create_string_buffer(256)
        pieces: list[bytes] = []
        for token in range(self.size):
            length = llama.llama_token_to_piece(self.pointer, token, buffer, len(buffer), 0, False)
            pieces.append(ctypes.string_at(buffer, length) if length >= 0 else self.piece(token, special=False))
        return pieces

    @property
    def eos_text(self) -> str:
        """The text of the token that ends a text; empty where there is none."""
        return self.special_text(llama.llama_vocab_eos(self.pointer))

    @property
    def adds_start_token(self) -> bool:
        """Whether the model wants its start token before each text."""
        return self.start_token() is not None and bool(llama.llama_vocab_get_add_bos(self.pointer))

    def end_tokens(self) -> frozenset[int]:
        """All end-of-generation tokens."""
        return frozenset(token for token in range(self.size) if llama.llama_vocab_is_eog(self.pointer, token))

    def eot_token(self) -> int | None:
        """The token that ends a turn, or else a text; None where the model has neither."""
        candidates = llama.llama_vocab_eot(self.pointer), llama.llama_vocab_eos(self.pointer)
        return next((token for token in candidates if token >= 0), None)

    def newline_token(self) -> int | None:
        """The line break's token; None where it has none."""
        token: int = llama.llama_vocab_nl(self.pointer)
        return token if token >= 0 else None

    def start_token(self) -> int | None:
        """The BOS token; None where the model has none."""
        token: int = llama.llama_vocab_bos(self.pointer)
        return token if token >= 0 else None

    def rank_format(self, template: str | None) -> RankFormat:
        """How a reranker of this vocabulary reads a query and a document, if it has no ``template`` for them.

        The tokens are those of llama.cpp's server (``format_prompt_rerank``), which stop behind the document where a
        separator serves as the end token (BERT). The models are trained with one at the end.
        """
        if template is not None:
            return RankFormat(template)
        pointer = self.pointer
        start, separator = llama.llama_vocab_bos(pointer), llama.llama_vocab_sep(pointer)
        end = llama.llama_vocab_eos(pointer)
        before = (start,) if llama.llama_vocab_get_add_bos(pointer) else ()
        ends = (separator if end < 0 else end,) if llama.llama_vocab_get_add_eos(pointer) else ()
        separators = (separator,) if llama.llama_vocab_get_add_sep(pointer) else ()
        return RankFormat(None, *(_known(ids) for ids in (before, (*ends, *separators), ends or separators)))

    def named_fim_tokens(self) -> dict[str, int]:
        """The tokens for fill in the middle that the model has, by their names in the protocol."""
        tokens = {
            "prefix": llama.llama_vocab_fim_pre(self.pointer),
            "suffix": llama.llama_vocab_fim_suf(self.pointer),
            "middle": llama.llama_vocab_fim_mid(self.pointer),
            "repository": llama.llama_vocab_fim_rep(self.pointer),
            "file": llama.llama_vocab_fim_sep(self.pointer),
        }
        return {name: token for name, token in tokens.items() if token >= 0}

    def fim_tokens(self) -> tuple[int, int, int] | None:
        """The tokens before prefix, suffix and middle; None where the model lacks one of them."""
        tokens = self.named_fim_tokens()
        if not {"prefix", "suffix", "middle"} <= tokens.keys():
            return None
        return tokens["prefix"], tokens["suffix"], tokens["middle"]

    def strips_leading_space(self, pieces: Sequence[bytes]) -> bool:
        """Whether detokenising leaves out the space before a text's first token. ``pieces``: ``all_pieces()``.

        A token with a leading space is detokenised to find out: the setting's default differs by kind of tokenizer.
        """
        token = next((token for token, piece in enumerate(pieces) if piece[:1] == b" " and len(piece) > 1), None)
        if token is None:
            return False
        buffer = ctypes.create_string_buffer(256)
        tokens = (llama.llama_token * 1)(token)
        length = llama.llama_detokenize(self.pointer, tokens, 1, buffer, len(buffer), False, True)
        return length > 0 and buffer.raw[:1] != b" "


def _known(tokens: Sequence[int]) -> tuple[int, ...]:
    """Without those that the vocabulary lacks, which are negative."""
    return tuple(token for token in tokens if token >= 0)


def load_vocab(path: Path, overrides: Sequence[MetadataOverride] = ()) -> LlamaVocab:
    """The vocabulary of the model file, loaded without the weights. Raises ModelError."""
    params = llama.llama_model_default_params()
    params.vocab_only = True
    array = override_array(overrides)  # llama.cpp reads it during the call.
    params.kv_overrides = array
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    if model is None:
        raise ModelError(f"llama.cpp can't load the vocabulary of {path}")
    return LlamaVocab(model, Metadata(model, overrides))
