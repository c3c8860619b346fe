"""Which running sequences are paused so that others can start or go on. It chooses; the scheduler pauses.

A caller gives up places only to a caller that has at least two fewer running sequences, so no pause is undone by the
next one. Priorities count within a caller alone.
"""

from __future__ import annotations

from collections import Counter

from tailrace.engine.kv_cache.cache import KVCache
from tailrace.engine.scheduler.fair_queue import urgency
from tailrace.engine.sequence import Sequence

#: Steps that a resumed sequence runs before it may be paused for another caller again. Copying its KV state out and
#: back takes about as long as one step, so pauses take a thirtieth of the time at most.
MIN_STEPS = 32


class Preemption:
    """Chooses among ``running``, which is the scheduler's own list."""

    def __init__(self, cache: KVCache, running: list[Sequence], parallel: int) -> None:
        """``parallel``: running sequences, at most."""
        self._cache = cache
        self._running = running
        self._parallel = parallel

    def for_cells(self) -> Sequence:
        """The sequence to pause when cells run out: the least urgent, youngest one of the caller with the most running
        sequences. Some sequence must be running.
        """
        counts = self.counts()
        richest = max(self._running, key=lambda sequence: (counts[sequence.caller], sequence.id)).caller
        return max((sequence for sequence in self._running if sequence.caller == richest), key=urgency)

    def for_urgent(self, sequence: Sequence) -> Sequence | None:
        """The running sequence of its own caller whose place the waiting ``sequence`` takes by its priority."""
        own = (other for other in self._running if other.caller == sequence.caller)
        least_urgent = max(own, key=urgency, default=None)
        return least_urgent if least_urgent is not None and sequence.priority < least_urgent.priority else None

    def for_caller(self, sequence: Sequence, counts: Counter[str], step: int) -> tuple[list[Sequence], int]:
        """The sequences whose places and cells the waiting ``sequence`` is to get in this step. ``counts``: how many of
        each caller run.

        They are as few as possible, of the callers with the most; of a caller the least urgent, then the one with the
        fewest computed tokens. Empty where the sequence's caller has its share, or where pausing can't help. The
        number: steps after which the answer may be another one, because a resumed sequence has run ``MIN_STEPS``; 0
        where there is none.
        """
        if max(counts.values(), default=0) <= counts[sequence.caller] + 1:
            return [], 0
        counts = counts.copy()
        remaining = list(self._running)
        chosen: list[Sequence] = []
        waits: set[int] = set()  #: of sequences that may not be paused yet
        while not self._fits(remaining, sequence):
            richer = [other for other in remaining if counts[other.caller] > counts[sequence.caller] + 1]
            candidates = [other for other in richer if _steps_left(other, step) <= 0]
            waits.update(_steps_left(other, step) for other in richer if other not in candidates)
            if not candidates:
                return [], min(waits, default=0)
            victim = max(
                candidates, key=lambda other: (counts[other.caller], other.priority, -other.computed, other.id)
            )
            counts[victim.caller] -= 1
            remaining.remove(victim)
            chosen.append(victim)
        return chosen, 0

    def counts(self) -> Counter[str]:
        """How many sequences of each caller run."""
        return Counter(sequence.caller for sequence in self._running)

    def _fits(self, running: list[Sequence], sequence: Sequence) -> bool:
        """Whether the sequence could run beside these."""
        if len(running) >= self._parallel:
            return False
        lengths = [len(other.tokens) + 1 + len(other.draft) for other in running]
        return self._cache.choose_layout([*lengths, len(sequence.tokens) + 1]) is not None


def _steps_left(sequence: Sequence, step: int) -> int:
    """Steps until the running sequence may be paused for another caller. One that was never paused may be at once."""
    return 0 if sequence.resumed_at_step is None else sequence.resumed_at_step + MIN_STEPS - step
