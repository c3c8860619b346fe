"""Reads a greedy reply back alone: how far each chosen token is from the best one when the model sees nothing else."""

from __future__ import annotations

from tailrace.engine.backend import Backend


def shortfalls(backend: Backend, prompt: list[int], reply: list[int]) -> list[float]:
    """For each token of ``reply`` the best logit less its own, with the prompt and the tokens before it as given.

    Zero is the argmax. The backend must be empty.
    """
    gaps: list[float] = []
    tokens = prompt + reply[:-1]
    first = len(prompt) - 1
    for start in range(0, len(tokens), backend.max_batch):
        chunk = tokens[start : start + backend.max_batch]
        positions = list(range(start, start + len(chunk)))
        outputs = [index for index, position in enumerate(positions) if position >= first]
        logits = backend.decode(chunk, positions, [0] * len(chunk), outputs)
        for row, index in enumerate(outputs):
            chosen = reply[positions[index] - first]
            gaps.append(float(logits[row].max() - logits[row][chosen]))
    backend.reset()
    return gaps
