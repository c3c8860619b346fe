"""llguidance's tokenizer and matchers of compiled grammars, created with this server's limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from tailrace.engine.structured.grammar_error import GrammarError

#: Tokenizes text that a grammar forces.
TokenizeForced = Callable[[str], list[int]]

#: Characters of the library's error messages that are passed on: they quote the grammar.
_MAX_MESSAGE = 400
#: Bytes of forced text that are tokenised at once: other threads wait meanwhile. The rest follows with the next token.
_MAX_FORCED = 4096
#: llguidance's limits bound the work of one mask. With half of its 50,000 items an ambiguous grammar's mask takes up to
#: 0.2 s; usual grammars need less than 5,000. Lexer states (a kilobyte or two each) of every grammar in use stay in
#: memory, so there are fewer than its 250,000. Errors don't quote the parser's state.
_LIMITS = LLParserLimits(max_lexer_states=50_000, step_max_items=25_000, verbose_errors=False)


class _TokenizerAdapter:
    """The model's tokenizer in the form of llguidance's ``TokenizerWrapper``."""

    bos_token_id = None

    def __init__(self, vocabulary: Sequence[bytes], end_tokens: Sequence[int], tokenize: TokenizeForced | None) -> None:
        self.eos_token_id = end_tokens[0]
        self.special_token_ids = [token for token, piece in enumerate(vocabulary) if not piece]
        # The library takes tokens with equal bytes for one, and control tokens have none: each gets bytes of its own.
        self.tokens = [piece or b"<[%d]>" % token for token, piece in enumerate(vocabulary)]
        self.tokenize = tokenize
        self.greedy: LLTokenizer | None = None  #: splits text into the longest tokens

    def __call__(self, text: bytes) -> list[int]:
        """The tokens of forced text, or of its beginning."""
        if len(text) > _MAX_FORCED:
            # A cut within a character is moved to its start.
            text = text[:_MAX_FORCED].decode("utf-8", "ignore").encode()
        tokens = self.tokenize(text.decode("utf-8")) if self.tokenize is not None else []
        # Some models' tokenizers always add a space in front: then the longest tokens are used.
        if self.greedy is None or b"".join(self.tokens[token] for token in tokens) == text:
            return tokens
        return self.greedy.greedy_tokenize(text.decode("utf-8"))


def make_tokenizer(
    vocabulary: Sequence[bytes], end_tokens: Sequence[int], tokenize: TokenizeForced | None
) -> LLTokenizer:
    """A tokenizer for grammars. ``vocabulary`` as in ``Backend``. ``tokenize`` is the model's own tokenizer for text
    within a reply; None: text is split into the longest tokens.
    """
    adapter = _TokenizerAdapter(vocabulary, end_tokens, tokenize)
    adapter.greedy = LLTokenizer(TokenizerWrapper(adapter), eos_token=list(end_tokens))
    return adapter.greedy


def compile_grammar(tokenizer: LLTokenizer, document: str) -> LLMatcher:
    """The grammar's matcher at its start. Raises GrammarError with the library's message."""
    matcher = LLMatcher(tokenizer, document, log_level=0, limits=_LIMITS)
    check(matcher)
    return matcher


def check(matcher: LLMatcher) -> None:
    """Raise GrammarError where the matcher has given up."""
    if matcher.is_error():
        message = " ".join(matcher.get_error().replace("<non-verbose/>", "").split())
        raise GrammarError(message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}…")
