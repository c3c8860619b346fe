"""Masks of allowed tokens: making them, and asking them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tailrace.engine.sampling.logits_ops.arrays import Mask, TokenIds


def allow_all_but(tokens: Iterable[int], vocabulary_size: int) -> Mask:
    """A mask that allows all tokens of a vocabulary except ``tokens``."""
    mask: Mask = np.full((vocabulary_size + 31) // 32, 0xFFFFFFFF, np.uint32)
    if vocabulary_size % 32:
        mask[-1] = (1 << vocabulary_size % 32) - 1
    for token in tokens:
        mask[token // 32] &= np.uint32(~(1 << token % 32) & 0xFFFFFFFF)
    return mask


def is_allowed(mask: Mask, token: int) -> bool:
    """Whether ``mask`` allows ``token``."""
    return bool(int(mask[token >> 5]) >> (token & 31) & 1)


def count_allowed(mask: Mask, vocabulary_size: int) -> int:
    """The number of tokens below ``vocabulary_size`` that ``mask`` allows."""
    whole_words = vocabulary_size >> 5
    rest = int(mask[whole_words]) & ((1 << (vocabulary_size & 31)) - 1) if vocabulary_size & 31 else 0
    return int(np.count_nonzero(np.unpackbits(mask[:whole_words].view(np.uint8)))) + rest.bit_count()


def allowed_tokens(mask: Mask, vocabulary_size: int) -> TokenIds:
    """The tokens below ``vocabulary_size`` that ``mask`` allows, in rising order."""
    words = np.flatnonzero(mask != 0)
    bits = np.unpackbits(mask[words].astype("<u4", copy=False).view(np.uint8), bitorder="little").reshape(-1, 32)
    word, bit = np.nonzero(bits)
    tokens = words[word] * 32 + bit
    return tokens[: np.searchsorted(tokens, vocabulary_size)]
