"""How likely a guessed token is to be the one that is chosen, by how many guesses were right just before.

Copying comes in runs: after one right guess the next one is right with 0.6 to 0.8, after 30 with 0.99, whatever the
text (measured on copies, edits, stories and lists of the starter model). So the run's length tells copies from
coincidences, and what was seen at each length tells a model or a text where it doesn't.
"""

from __future__ import annotations

#: Runs are counted in levels: level i is from _EDGES[i] right guesses on.
_EDGES = (0, 1, 2, 3, 4, 6, 9, 17, 33, 65)
LEVELS = len(_EDGES)
_LEVEL = [sum(run >= edge for edge in _EDGES) - 1 for run in range(_EDGES[-1] + 1)]
#: How many observations a belief, or what all sequences showed, weighs beside a sequence's own.
_WEIGHT = 16.0
#: Observations of a level after which its old ones count half.
_MEMORY = 256.0


class Acceptance:
    """Chances by level. ``belief`` is what holds where little has been seen: a number for each level, or another
    acceptance, which then learns what is seen here too.
    """

    __slots__ = ("_belief", "_hits", "_trials")

    def __init__(self, belief: Acceptance | tuple[float, ...]) -> None:
        self._belief = belief
        self._hits = [0.0] * LEVELS
        self._trials = [0.0] * LEVELS

    def observe(self, run: int, hit: bool) -> None:
        """After ``run`` right guesses the next one was right, or wasn't."""
        level = _LEVEL[run] if run < _EDGES[-1] else LEVELS - 1
        self._hits[level] += hit
        self._trials[level] += 1.0
        if self._trials[level] >= _MEMORY:
            self._hits[level] /= 2.0
            self._trials[level] /= 2.0
        if isinstance(self._belief, Acceptance):
            self._belief.observe(run, hit)

    def chance(self, run: int) -> float:
        """The chance that a guess after ``run`` right ones is right."""
        return self._chance(_LEVEL[run] if run < _EDGES[-1] else LEVELS - 1)

    def survival(self, run: int, count: int) -> list[float]:
        """The chance of each of ``count`` guesses in a row that it and all before it are right: falling."""
        chances = [self._chance(level) for level in range(LEVELS)]
        surviving, values = 1.0, []
        for place in range(run, run + count):
            surviving *= chances[_LEVEL[place] if place < _EDGES[-1] else -1]
            values.append(surviving)
        return values

    def _chance(self, level: int) -> float:
        belief = self._belief._chance(level) if isinstance(self._belief, Acceptance) else self._belief[level]
        return (self._hits[level] + _WEIGHT * belief) / (self._trials[level] + _WEIGHT)
