"""Reads a greedy reply back alone: how far each chosen token is from the best one when the model sees nothing else."""

from __future__ import annotations

from tailrace.engine.backends.base import Backend
from tailrace.engine.sampling.logits_ops.arrays import LogitsRow


def rows(backend: Backend, prompt: list[int], reply: list[int]) -> list[LogitsRow]:
    """For each token of ``reply`` the logits that it was chosen from, the prompt and the tokens before it as given.

    The backend must be empty.
    """
    found: list[LogitsRow] = []
    tokens = prompt + reply[:-1]
    first = len(prompt) - 1
    for start in range(0, len(tokens), backend.max_batch):
        chunk = tokens[start : start + backend.max_batch]
        positions = list(range(start, start + len(chunk)))
        outputs = [index for index, position in enumerate(positions) if position >= first]
        found.extend(backend.decode(chunk, positions, [0] * len(chunk), outputs).copy())
    backend.reset()
    return found


def shortfalls(backend: Backend, prompt: list[int], reply: list[int]) -> list[float]:
    """For each token of ``reply`` the best logit less its own. Zero is the argmax."""
    pairs = zip(rows(backend, prompt, reply), reply, strict=True)
    return [float(row.max() - row[token]) for row, token in pairs]
