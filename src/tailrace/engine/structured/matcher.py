"""llguidance's tokenizer and compiled grammars, made with the limits that hold here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from tailrace.engine.structured.grammar_translation import GrammarError

TokenizeForced = Callable[[str], list[int]]

#: Characters of the library's messages that are passed on: they quote what they complain about.
_MESSAGE_LENGTH = 400
#: llguidance's own defaults bound one mask to about 17 ms of work. Fewer lexer states (a kilobyte or two each) than its
#: 250,000, because the states of every grammar in use stay in memory. Errors don't quote the parser's state.
_LIMITS = LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


class _Tokens:
    """What llguidance asks for: see its ``TokenizerWrapper``."""

    bos_token_id = None

    def __init__(self, vocabulary: Sequence[bytes], end_tokens: Sequence[int], cut: TokenizeForced | None) -> None:
        self.eos_token_id = end_tokens[0]
        self.special_token_ids = [token for token, piece in enumerate(vocabulary) if not piece]
        # Tokens of equal bytes are one to the library, and control tokens have none: it has to tell them apart.
        self.tokens = [piece or b"<[%d]>" % token for token, piece in enumerate(vocabulary)]
        self.cut = cut
        self.tokenizer: LLTokenizer | None = None

    def __call__(self, text: bytes) -> list[int]:
        """How forced text is cut into tokens."""
        tokens = self.cut(text.decode("utf-8")) if self.cut is not None else []
        # Some models' tokenizers can't help adding a space in front: then the longest tokens have to do.
        if self.tokenizer is None or b"".join(self.tokens[token] for token in tokens) == text:
            return tokens
        return self.tokenizer.greedy_tokenize(text.decode("utf-8"))


def make_tokenizer(vocabulary: Sequence[bytes], end_tokens: Sequence[int], cut: TokenizeForced | None) -> LLTokenizer:
    """A tokenizer for grammars. ``vocabulary`` as in ``Backend``; ``cut`` is how the model's own tokenizer cuts text
    within a reply (None: into the longest tokens). Takes 0.13 s for 49k tokens.
    """
    tokens = _Tokens(vocabulary, end_tokens, cut)
    tokens.tokenizer = LLTokenizer(TokenizerWrapper(tokens), eos_token=list(end_tokens))
    return tokens.tokenizer


def compile_grammar(tokenizer: LLTokenizer, document: str) -> LLMatcher:
    """The grammar's matcher at its start. Raises GrammarError with the library's words."""
    matcher = LLMatcher(tokenizer, document, log_level=0, limits=_LIMITS)
    check(matcher)
    return matcher


def check(matcher: LLMatcher) -> None:
    """Raise GrammarError when the matcher has given up."""
    if matcher.is_error():
        message = " ".join(matcher.get_error().replace("<non-verbose/>", "").split())
        raise GrammarError(message if len(message) <= _MESSAGE_LENGTH else f"{message[:_MESSAGE_LENGTH]}…")
