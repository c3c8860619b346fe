"""Measures how far a model's predictions are from another's, over a fixed text that comes with the package.

It works through the backend protocol and knows no files or formats. Only one model is in memory at a time: the first
model's logits are held instead, within a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from tailrace.engine.backends.base import Backend
from tailrace.models.format_comparison import Quality

#: Tokens in one context window of the text. Some models have no longer context, and predictions settle within it.
WINDOW = 512
#: Memory for the first model's logits: 2,700 positions with a vocabulary of 49k.
_LOGITS_BYTES = 512 * 1024 * 1024
#: Memory for the logits of one decode.
_STEP_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Predictions:
    """A model's logits at each position of the text."""

    logits: npt.NDArray[np.float32]  #: (positions, vocabulary)
    following: npt.NDArray[np.int64]  #: the text's next token at each position


def fixed_text() -> str:
    """Prose in five languages, program text and data, about 2,000 tokens, written for this purpose."""
    return files("tailrace.engine.weights").joinpath("quality.txt").read_text(encoding="utf-8")


def predict(backend: Backend, text: str | None = None) -> Predictions:
    """Run the model over the text (None: ``fixed_text``), in windows that each start with an empty context.

    The backend's slots are empty afterwards. Raises BackendError.
    """
    tokens = backend.tokenize(fixed_text() if text is None else text)
    start = [backend.start_token] if backend.start_token is not None and tokens[0] == backend.start_token else []
    vocabulary = len(backend.vocabulary)
    positions = max(1, min(len(tokens) - 1, _LOGITS_BYTES // (4 * vocabulary)))
    logits = np.empty((positions, vocabulary), np.float32)
    window = min(WINDOW, backend.info.context, backend.layout.cells)
    step = max(1, min(backend.max_batch, _STEP_BYTES // (4 * vocabulary)))
    for first in range(0, positions, window - len(start)):
        # Each window is predicted from its own tokens only, behind a start token where the model has one.
        part = (start if first else []) + tokens[first : min(positions, first + window - len(start))]
        skipped = len(start) if first else 0
        backend.reset()
        for begin in range(0, len(part), step):
            piece = part[begin : begin + step]
            outputs = [index for index in range(len(piece)) if begin + index >= skipped]
            rows = backend.decode(piece, list(range(begin, begin + len(piece))), [0] * len(piece), outputs)
            at = first + begin + (outputs[0] if outputs else 0) - skipped
            logits[at : at + len(outputs)] = rows
    backend.reset()
    return Predictions(logits, np.asarray(tokens[1 : positions + 1], np.int64))


def compare(original: Predictions, other: Predictions) -> Quality:
    """The difference between two models' predictions for the same text.

    The Kullback-Leibler divergence from P (the original's next-token distribution) to Q (the other's) is
    sum_i P(i) (ln P(i) - ln Q(i)), in nats (Kullback and Leibler, On information and sufficiency, 1951); it is 0 where
    both are the same. Perplexity is exp of the mean of -ln Q(next token) (Jelinek et al., 1977). Both in float64.
    Raises ValueError when the predictions aren't for the same text and vocabulary.
    """
    if not np.array_equal(original.following, other.following) or original.logits.shape != other.logits.shape:
        raise ValueError("the two models didn't read the same tokens")
    count = len(original.following)
    divergence, surprise, same = np.empty(count), np.empty((2, count)), 0
    # One row at a time: float64 values of all rows would take twice the memory of both models' logits.
    for row in range(count):
        p, q = _log_softmax(original.logits[row]), _log_softmax(other.logits[row])
        following = original.following[row]
        divergence[row] = np.sum(np.exp(p) * (p - q))
        surprise[:, row] = -p[following], -q[following]
        same += int(p.argmax() == q.argmax())
    before, after = np.exp(surprise.mean(axis=1))
    return Quality(
        tokens=count,
        # Rounding can make it negative by an ulp or two.
        divergence=max(0.0, float(divergence.mean())),
        divergence_p99=max(0.0, float(np.quantile(divergence, 0.99))),
        same_top=same / count,
        perplexity_before=float(before),
        perplexity=float(after),
    )


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    return values
