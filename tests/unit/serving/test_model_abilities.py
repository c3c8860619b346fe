"""What a model is able to, by its template and vocabulary."""

from __future__ import annotations

import pytest

from tailrace.serving.model_abilities import thinks


@pytest.mark.parametrize(
    ("template", "tokens", "expected"),
    [
        ("{{ messages[0].content }}", (), False),
        ("{{ messages[0].content }}", ("<|im_end|>",), False),
        ("{{ messages[0].content }}", ("<think>", "</think>"), True),
        ("{% if enable_thinking %}<think>{% endif %}", (), True),
        ("{{ content.split('</think>')[-1] }}", (), True),
        ("{{ reasoning_effort }}", (), True),
        ("[INST][AVAILABLE_TOOLS][THINK]", (), True),
        ("<start_of_turn>model", (), False),
    ],
)
def test_thinking_is_detected_by_the_models_markers(template: str, tokens: tuple[str, ...], expected: bool) -> None:
    assert thinks(template, tokens) is expected
