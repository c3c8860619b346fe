"""Compares the speed of a placed model with the one that was predicted of it, from the steps that the loop makes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import structlog

from tailrace.protocol import SpeedComparison

#: Steps of which the median counts, and as many as there must be before a speed is told.
_STEPS, _MIN_STEPS = 64, 24
#: Prompt tokens of a pass that shows the speed of prompts.
_MIN_PROMPT_TOKENS = 64
#: Tokens within which one prediction holds.
_DEPTH_STEP = 256
#: Measured ÷ predicted speed within these bounds is no difference to speak of.
_LOW, _HIGH = 0.7, 1.4


class PredictedSeconds(NamedTuple):
    """What a token takes."""

    decode: float  #: of one reply
    prompt: float  #: of a long prompt


#: The prediction for tokens behind so many others.
Predict = Callable[[int], PredictedSeconds]


class SpeedWatch:
    """See the module. Its calls are made by the engine's loop."""

    def __init__(self, predict: Predict, doubts: Sequence[str]) -> None:
        """``doubts``: what is known to be wrong or assumed of the prediction, the likeliest reason first."""
        self._predict = predict
        self._doubts = doubts
        self._decode: deque[float] = deque(maxlen=_STEPS)  #: seconds of steps with one reply's token
        self._prompt: deque[float] = deque(maxlen=_STEPS)  #: seconds of a prompt token, by pass
        self._depth = 0
        self._predicted: tuple[int, PredictedSeconds] | None = None  #: the last prediction, and its depth
        self._is_logged = False

    def observe(self, *, decoding: int, prompt_tokens: int, drafted: bool, depth: int, seconds: float) -> None:
        """A step has taken ``seconds``. ``depth``: tokens before it, of all its sequences."""
        if decoding == 1 and not prompt_tokens and not drafted:
            self._decode.append(seconds)
            self._depth = depth
            if not self._is_logged and len(self._decode) >= _MIN_STEPS:
                self._is_logged = True
                self._log()
        elif not decoding and prompt_tokens >= _MIN_PROMPT_TOKENS:
            self._prompt.append(seconds / prompt_tokens)

    @property
    def figures(self) -> SpeedComparison:
        """Both speeds now."""
        predicted = self._prediction()
        decode = 1 / median(self._decode) if len(self._decode) >= _MIN_STEPS else 0.0
        return SpeedComparison(
            predicted_decode=1 / predicted.decode,
            predicted_prompt=1 / predicted.prompt,
            decode=decode,
            prompt=1 / median(self._prompt) if self._prompt else 0.0,
            reason=self._reason(decode * predicted.decode) if decode else "",
        )

    def _prediction(self) -> PredictedSeconds:
        depth = -(-self._depth // _DEPTH_STEP) * _DEPTH_STEP
        if self._predicted is None or self._predicted[0] != depth:
            self._predicted = depth, self._predict(depth)
        return self._predicted[1]

    def _reason(self, ratio: float) -> str:
        """Why the speed is another one than predicted. ``ratio``: measured ÷ predicted."""
        if _LOW <= ratio <= _HIGH:
            return ""
        if self._doubts:
            return self._doubts[0]
        if ratio < 1:
            return "other programs use a device or the link, or they slowed nothing down while these were measured"
        return "other programs used a device or the link while these were measured, or weights fit into caches"

    def _log(self) -> None:
        found = self.figures
        log = structlog.get_logger()
        write = log.warning if found.reason else log.info
        why = {"reason": found.reason} if found.reason else {}
        write(
            "decode speed of the placement",
            measured=f"{found.decode:.1f} tokens/s",
            predicted=f"{found.predicted_decode:.1f} tokens/s",
            **why,
        )
