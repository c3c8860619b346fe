"""What may not end a reply yet: the mask of its end tokens, and stop strings."""

from __future__ import annotations

import pytest

from tailrace.chat.detokenize import PieceTable
from tailrace.chat.reply_parts import TextPart
from tailrace.chat.reply_pipeline import ReplyPipeline
from tailrace.engine.sampling.logits_ops.masks import allow_all_but, is_allowed


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 261])
def test_the_mask_allows_all_but_these(size: int) -> None:
    banned = {0, size - 1, size // 2}
    mask = allow_all_but(banned, size)
    assert {token for token in range(32 * len(mask)) if is_allowed(mask, token)} == set(range(size)) - banned


def test_stop_strings_are_looked_for_behind_the_first_tokens() -> None:
    pipeline = ReplyPipeline(PieceTable([bytes([value]) for value in range(256)]), ["ab"], None, min_tokens=3)
    said = []
    for value in b"abaabx":
        said += pipeline.feed(value)
        if pipeline.stopped:
            break
    assert "".join(part.text for part in said if isinstance(part, TextPart)) == "aba"
    assert pipeline.stop_string == "ab"
