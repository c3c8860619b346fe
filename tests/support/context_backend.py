"""A model whose logits are noise derived from a slot's real contents, so a wrong cache gives another reply."""

from __future__ import annotations

import numpy as np

from tailrace.engine.backends.base import Logits
from tailrace.engine.backends.fake import END, FakeBackend

#: Tokens that are likely: few, so that replies repeat themselves and prompt lookup finds something.
_LETTERS = np.frombuffer(b"abcdef", np.uint8)


class ContextBackend(FakeBackend):
    """Logits are a function of the last two tokens and of how long ago the text began, in stretches of 40 tokens."""

    def decode(
        self, tokens: list[int], positions: list[int], slots: list[int], outputs: list[int], n_decode_tokens: int = 0
    ) -> Logits:
        """See ``Backend``."""
        logits = super().decode(tokens, positions, slots, outputs, n_decode_tokens)
        for row, index in enumerate(outputs):
            position = positions[index]
            held = self._tokens[slots[index]][: position + 1]
            random = np.random.default_rng([held[-1], held[-2] if position else 0, position // 40])
            logits[row] = random.normal(0.0, 1.0, logits.shape[1])
            logits[row][_LETTERS] += 6.0
            logits[row][END] = 4.0
        return logits
