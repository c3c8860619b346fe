"""Prompt lookup: finds a sequence's last tokens earlier in prompt and reply, and drafts what followed them there.

It works on the tokens of one sequence, and knows nothing of models, costs, or whether a draft pays. It follows every
token, drafted or not, so its acceptance rate is known before a draft has cost anything.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.acceptance import Acceptance

#: Tokens that must agree for a match.
_NGRAM_SIZE = 3
#: Prompt tokens indexed in one call, in half a millisecond. A whole prompt of 100,000 would delay a step by 25 ms.
_INDEX_CHUNK = 4096
#: Separates prediction and prompt: no token's id, so no match reaches across it.
_BOUNDARY = -1

NGram = tuple[int, int, int]


class PromptLookup:
    """One sequence's index of its tokens."""

    __slots__ = ("_index", "_is_indexed", "_match", "_n_indexed", "_n_prediction", "_tokens", "run")

    def __init__(self, tokens: Seq[int], prediction: Seq[int] = ()) -> None:
        """``prediction``: tokens that the client expects in the reply. The first draft is their beginning."""
        self._tokens: list[int] = [*prediction, _BOUNDARY, *tokens] if prediction else list(tokens)
        self._n_prediction = len(prediction)
        self._index: dict[NGram, int] = {}  #: three tokens → the position behind their last occurrence
        self._n_indexed = 0  #: n-grams of the prompt that begin before this position are in the index
        #: Whether all tokens but the last three are in the index.
        self._is_indexed = len(self._tokens) <= _NGRAM_SIZE
        #: The position of the next draft token in ``_tokens``; -1: there is no match.
        self._match = 0 if prediction else -1
        #: Draft tokens in a row that were right. A wrong one leaves a quarter: a copy with one change mostly goes on.
        self.run = 0

    @property
    def has_match(self) -> bool:
        """Whether there is a draft."""
        return self._match >= 0

    @property
    def matches_prediction(self) -> bool:
        """Whether the draft comes from the prediction."""
        return 0 <= self._match < self._n_prediction

    def index_more(self) -> bool:
        """Index another chunk of the tokens. True if all are indexed; before, there is no draft."""
        if self._is_indexed:
            return True
        tokens, start = self._tokens, self._n_indexed
        # The last n-gram is left out: it would find itself.
        end = min(start + _INDEX_CHUNK, len(tokens) - _NGRAM_SIZE)
        if start < end:
            ngrams = zip(tokens[start:end], tokens[start + 1 : end + 1], tokens[start + 2 : end + 2], strict=True)
            self._index.update(zip(ngrams, range(start + _NGRAM_SIZE, end + _NGRAM_SIZE), strict=True))
            self._n_indexed = end
            if end == len(tokens) - _NGRAM_SIZE and self._match < 0:
                self._find_match()
        self._is_indexed = self._n_indexed >= len(tokens) - _NGRAM_SIZE
        return self._is_indexed

    def append(self, token: int) -> bool | None:
        """Add the next token. Returns whether the draft token for it was right; None without one. About 0.4 µs."""
        tokens = self._tokens
        if not self._is_indexed:
            tokens.append(token)
            return None
        if len(tokens) >= _NGRAM_SIZE:
            self._index[tokens[-3], tokens[-2], tokens[-1]] = len(tokens)
        match = self._match
        tokens.append(token)
        if match < 0:
            self._find_match()
            return None
        self._match = match + 1
        if tokens[match] == token:
            self.run += 1
            return True
        self.run //= 4
        # Without a better match the old one goes on behind the changed token.
        self._find_match()
        return False

    def draft(self, count: int) -> list[int]:
        """The next ``count`` draft tokens; fewer at the end of a prediction."""
        if self._match < 0:
            return []
        drafted = self._tokens[self._match : self._match + count]
        if 0 < len(drafted) < count:
            # The match runs into the reply's own end: a loop is drafted to go on.
            drafted = (drafted * (count // len(drafted) + 1))[:count]
        if _BOUNDARY in drafted:
            del drafted[drafted.index(_BOUNDARY) :]
        return drafted

    def _find_match(self) -> None:
        tokens = self._tokens
        if len(tokens) >= _NGRAM_SIZE:
            self._match = self._index.get((tokens[-3], tokens[-2], tokens[-1]), self._match)


class LookupDrafter:
    """Prompt lookup for every running sequence. See ``Drafter``."""

    learns_without_draft: bool = True
    #: Of the starter model: copies and other replies together.
    prior: tuple[float, ...] = (0.15, 0.6, 0.8, 0.8, 0.85, 0.88, 0.9, 0.95, 0.98, 0.99)

    def __init__(self) -> None:
        self._lookups: dict[int, PromptLookup] = {}  #: by the sequence's id

    def begin(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
        self._lookups[sequence.id] = PromptLookup(sequence.tokens, sequence.prediction)

    def expect_results(self, wanted: bool) -> None:
        """See ``Drafter``. Tokens are all that it needs."""

    def collect(self, scheduled: list[tuple[Sequence, int]], slots: list[int]) -> None:
        """See ``Drafter``. Tokens are all that it needs."""

    def prepare(self, sequence: Sequence) -> int | None:
        """See ``Drafter``. A long prompt is indexed over several steps, during its prefill."""
        lookup = self._lookups[sequence.id]
        return lookup.run if lookup.index_more() and lookup.has_match else None

    def draft(self, requests: list[tuple[Sequence, int]]) -> None:
        """See ``Drafter``."""
        for sequence, length in requests:
            lookup = self._lookups[sequence.id]
            sequence.draft = lookup.draft(length)
            sequence.draft_from_prediction = lookup.matches_prediction

    def draft_seconds(self, n_sequences: int, length: int) -> float:
        """See ``Drafter``. A draft takes microseconds, which count as 0."""
        return 0.0

    def learn(self, sequence: Sequence, sampled: list[int], acceptance: Acceptance) -> None:
        """See ``Drafter``."""
        lookup = self._lookups[sequence.id]
        for token in sampled:
            run = lookup.run
            was_right = lookup.append(token)
            if was_right is not None:
                acceptance.observe(run, was_right)

    def end(self, sequence: Sequence) -> None:
        """See ``Drafter``."""
        del self._lookups[sequence.id]
