"""llama.cpp's infill sampler: a completion in an editor ends rather than going on with what the model isn't sure of.

It asks how likely any end is against any text, puts tokens together of which one begins with the other, and keeps those
that are likely enough.
"""

from __future__ import annotations

import numpy as np

from tailrace.engine.sampling.candidates import Candidates
from tailrace.engine.sampling.logits_ops import Ids, Numbers
from tailrace.engine.sampling.sampling_vocabulary import SamplingVocabulary

#: Candidates that are looked at, beside all that end the reply: each is compared with the beginnings of the others.
#: Those beyond are far too unlikely to be kept, and add to what is only by their sum.
_MANY = 1024
#: Tokens whose probability is less are dropped, unless they end the reply.
_LIKELY = 0.2
#: How many times likelier text has to be than an end, for each candidate.
_RATIO = 3.0


class Infill:
    """For the vocabulary of one model; it has no state."""

    __slots__ = ("_ends", "_vocabulary")

    def __init__(self, vocabulary: SamplingVocabulary) -> None:
        self._vocabulary = vocabulary
        self._ends: Ids = np.array(sorted(vocabulary.end_tokens), np.intp)

    def apply(self, candidates: Candidates) -> None:
        """Narrow ``candidates`` down to those that llama.cpp keeps."""
        ids, parts, size = candidates.likeliest(_MANY, self._ends)
        ending = np.isin(ids, self._ends)
        ended = float(parts[ending].sum())
        if _RATIO * ended * size > 1.0 - ended:
            candidates.keep(ending)
            return
        parts = self._merged(ids.tolist(), parts)
        kept = (parts >= _LIKELY) | ending
        texts = int(np.count_nonzero(kept & ~ending))
        if not texts:
            candidates.replace(self._vocabulary.eot_token)
            return
        parts = parts / parts[kept].sum()
        candidates.keep(kept & ((parts >= 1.0 / (texts + 1)) | ending))

    def _merged(self, ids: list[int], parts: Numbers) -> Numbers:
        """Probabilities after each candidate has taken over those of less likely ones that begin with it, or it has
        been taken over.
        """
        pieces = [self._vocabulary.pieces[token] for token in ids]
        places: dict[bytes, list[int]] = {}
        for place, piece in enumerate(pieces):
            if piece:
                places.setdefault(piece, []).append(place)
        pairs = sorted(
            (shorter, longer)
            for longer, piece in enumerate(pieces)
            for length in range(1, len(piece) + 1)
            for shorter in places.get(piece[:length], ())
            if shorter != longer
        )
        merged = parts.tolist()
        gone = [False] * len(ids)
        for shorter, longer in pairs:
            if gone[shorter] or gone[longer]:
                continue
            into, out = (longer, shorter) if merged[longer] > merged[shorter] else (shorter, longer)
            merged[into] += merged[out]
            merged[out], gone[out] = 0.0, True
        return np.array(merged)
