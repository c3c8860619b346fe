"""Masks of tokens: the mask that allows all tokens but some."""

from __future__ import annotations

import pytest

from tailrace.engine.sampling.logits_ops.masks import allow_all_but, is_allowed


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 261])
def test_all_tokens_but_the_banned_ones_are_allowed(size: int) -> None:
    banned = {0, size - 1, size // 2}
    mask = allow_all_but(banned, size)
    assert {token for token in range(32 * len(mask)) if is_allowed(mask, token)} == set(range(size)) - banned
