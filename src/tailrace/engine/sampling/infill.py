"""llama.cpp's infill sampler: a completion in an editor ends when the model isn't sure how it goes on.

It compares the probability of the end tokens with that of text. It merges tokens whose text begins with another
candidate's text, and keeps those that are likely enough.
"""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.candidates import Candidates
from tailrace.engine.sampling.logits_ops.arrays import Float64Array, TokenIds
from tailrace.engine.sampling.token_facts import SamplingVocabulary

#: The number of candidates that are compared, beside all end tokens: each one's text is compared with the others'. The
#: candidates beyond are too unlikely to be kept.
_MAX_CANDIDATES = 1024
#: Tokens with a lower probability are dropped, unless they are end tokens.
_MIN_PROBABILITY = 0.2
#: How many times likelier than the end text must be, for each candidate.
_TEXT_TO_END_RATIO = 3.0


class Infill:
    """The sampler for one model's vocabulary. It has no state."""

    __slots__ = ("_end_tokens", "_vocabulary")

    def __init__(self, vocabulary: SamplingVocabulary) -> None:
        self._vocabulary = vocabulary
        self._end_tokens: TokenIds = np.array(sorted(vocabulary.end_tokens), np.intp)

    def apply(self, candidates: Candidates) -> None:
        """Narrow ``candidates`` down to those that llama.cpp keeps."""
        ids, probs, n_candidates = candidates.likeliest(_MAX_CANDIDATES, self._end_tokens)
        is_end = np.isin(ids, self._end_tokens)
        end_prob = float(probs[is_end].sum())
        if _TEXT_TO_END_RATIO * end_prob * n_candidates > 1.0 - end_prob:
            candidates.keep(is_end)
            return
        probs = self._merge_prefixes(ids.tolist(), probs)
        keep = (probs >= _MIN_PROBABILITY) | is_end
        n_texts = int(np.count_nonzero(keep & ~is_end))
        if not n_texts:
            candidates.replace(self._vocabulary.eot_token)
            return
        probs = probs / probs[keep].sum()
        candidates.keep(keep & ((probs >= 1.0 / (n_texts + 1)) | is_end))

    def _merge_prefixes(self, ids: list[int], probs: Float64Array) -> Float64Array:
        """Probabilities after the merge: of two candidates of which one's text begins with the other's, the likelier
        one gets both probabilities.
        """
        pieces = [self._vocabulary.pieces[token] for token in ids]
        indexes: dict[bytes, list[int]] = {}
        for index, piece in enumerate(pieces):
            if piece:
                indexes.setdefault(piece, []).append(index)
        pairs = sorted(
            (shorter, longer)
            for longer, piece in enumerate(pieces)
            for length in range(1, len(piece) + 1)
            for shorter in indexes.get(piece[:length], ())
            if shorter != longer
        )
        merged = probs.tolist()
        is_merged = [False] * len(ids)
        for shorter, longer in pairs:
            if is_merged[shorter] or is_merged[longer]:
                continue
            into, out = (longer, shorter) if merged[longer] > merged[shorter] else (shorter, longer)
            merged[into] += merged[out]
            merged[out], is_merged[out] = 0.0, True
        return np.array(merged)
