"""Reasoning in tags, in pieces of any size."""

from __future__ import annotations

import pytest

from tailrace.chat.reply_parts import ReasoningPart, TextPart
from tailrace.cli.think_tags import ThinkTags


@pytest.mark.parametrize(
    ("written", "thought", "text"),
    [
        ("Hello", "", "Hello"),
        ("<think>\nhm, 1 < 2</thin\n</think>\n\nYes <think>no</think>", "hm, 1 < 2</thin\n", "Yes <think>no</think>"),
        (" \n<think>a</think>b", "a", "b"),
        ("<think></think>b", "", "b"),
        ("<think>cut off</thi", "cut off</thi", ""),
        ("<thi", "", "<thi"),
        ("<thinking>a", "", "<thinking>a"),
        ("  x", "", "  x"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_reasoning_is_what_stands_in_the_first_tags(written: str, thought: str, text: str, size: int) -> None:
    tags = ThinkTags()
    parts = [part for at in range(0, len(written), size) for part in tags.feed(written[at : at + size])]
    parts += tags.finish()
    assert "".join(part.text for part in parts if isinstance(part, ReasoningPart)) == thought
    assert "".join(part.text for part in parts if isinstance(part, TextPart)) == text
