"""Divergence and perplexity, compared with the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tailrace.engine.backends.fake import FakeBackend
from tailrace.engine.weights.quality import Predictions, compare, fixed_text, predict


def predictions(logits: list[list[float]], following: list[int]) -> Predictions:
    return Predictions(np.array(logits, np.float32), np.array(following, np.int64))


def test_equal_predictions_have_no_divergence() -> None:
    random = np.random.default_rng(1)
    one = Predictions(random.normal(0, 4, (50, 300)).astype(np.float32), random.integers(0, 300, 50))
    found = compare(one, one)
    assert (found.divergence, found.divergence_p99, found.same_top) == (0.0, 0.0, 1.0)
    assert found.perplexity == found.perplexity_before


def test_divergence_and_perplexity_are_the_formulas() -> None:
    # P is (1/2, 1/4, 1/4) twice, Q is (1/4, 1/2, 1/4) once and P once; logits may be shifted.
    p = [math.log(2), 0.0, 0.0]
    q = [5.0, 5.0 + math.log(2), 5.0]
    found = compare(predictions([p, p], [0, 1]), predictions([q, p], [0, 1]))
    divergence = 0.5 * math.log(2) + 0.25 * math.log(0.5)
    assert found.divergence == pytest.approx(divergence / 2, rel=1e-6)
    assert found.perplexity_before == pytest.approx(math.sqrt(2 * 4))
    assert found.perplexity == pytest.approx(math.sqrt(4 * 4))
    assert found.same_top == 0.5
    assert found.tokens == 2


def test_predictions_of_different_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        compare(predictions([[0.0, 1.0]], [0]), predictions([[0.0, 1.0]], [1]))


def test_certainty_makes_no_infinities() -> None:
    found = compare(predictions([[300.0, -300.0]], [0]), predictions([[-300.0, 300.0]], [0]))
    assert found.divergence == pytest.approx(600)


def test_each_position_of_the_text_is_predicted_once_in_windows() -> None:
    seen: list[tuple[int, int]] = []

    class Watching(FakeBackend):
        def decode(
            self,
            tokens: list[int],
            positions: list[int],
            slots: list[int],
            outputs: list[int],
            n_decode_tokens: int = 0,
        ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
            rows = super().decode(tokens, positions, slots, outputs, n_decode_tokens)
            seen.extend(zip(positions, tokens, strict=True))
            # Each row tells where it is from.
            rows[:, 0] = [positions[index] for index in outputs]
            rows[:, 1] = [tokens[index] for index in outputs]
            return rows

    backend = Watching(ctx=200, parallel=1, kv_tokens=200, batch=64, step_seconds=0.0)
    text = "".join(chr(97 + number % 26) for number in range(501))
    tokens = backend.tokenize(text)
    found = predict(backend, text)
    assert found.following.tolist() == tokens[1:]
    assert [token for _, token in seen] == tokens[:-1]
    assert found.logits[:, 1].tolist() == tokens[:-1]
    assert found.logits[:, 0].tolist() == [index % 200 for index in range(len(tokens) - 1)]


def test_the_text_is_there() -> None:
    assert 6000 < len(fixed_text()) < 10_000
