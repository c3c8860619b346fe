"""The fake backend's moves of states: tokens go from one list to another, piece by piece."""

from __future__ import annotations

from tailrace.engine.backends.base import KVState


class FakeStateMove:
    """See ``StateMove``. Tokens go from one list to another."""

    def __init__(self, source: list[int], state: KVState, target: list[int], length: int, piece_tokens: int) -> None:
        """The first ``length`` tokens of ``source`` go to ``target``."""
        self._source, self._target = source, target
        self._length, self._piece_tokens = length, piece_tokens
        self.state: KVState | None = state

    @property
    def done(self) -> bool:
        """See ``StateMove``."""
        return len(self._target) >= self._length

    def advance(self) -> None:
        """See ``StateMove``."""
        begin = len(self._target)
        self._target += self._source[begin : min(begin + self._piece_tokens, self._length)]
