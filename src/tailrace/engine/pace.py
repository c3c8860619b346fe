"""How many prompt tokens a step may read so that running streams keep their pace: learned from the steps themselves."""

from __future__ import annotations

#: Fewer prompt tokens than this make no step worth learning from, nor one worth having.
_LEAST = 16
#: Weight of the newest observation.
_WEIGHT = 0.3


class PrefillPace:
    """The chunk for a step beside running streams: what ``step_seconds`` allow at the speed seen so far.

    Until a speed has been seen it is an eighth of ``most``.
    """

    def __init__(self, most: int, step_seconds: float) -> None:
        self._most = most
        self._step_seconds = step_seconds
        self._rate: float | None = None  #: prompt tokens a second, a whole step's time counted
        self.chunk = max(1, most // 8)

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        """A step computed so many prompt tokens, beside whatever it decoded, in ``seconds``."""
        if prompt_tokens < _LEAST or seconds <= 0.0:
            return
        rate = prompt_tokens / seconds
        self._rate = rate if self._rate is None else self._rate + _WEIGHT * (rate - self._rate)
        self.chunk = max(min(_LEAST, self._most), min(self._most, int(self._rate * self._step_seconds)))
