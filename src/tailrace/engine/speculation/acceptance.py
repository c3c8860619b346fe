"""The acceptance rate of a draft token by its run: how many draft tokens in a row were right just before it.

Copying comes in runs: after one right token the next is right with 0.6 to 0.8, after 30 with 0.99, whatever the text.
So the run's length tells copies from coincidences. Observations of each length correct this for a model or a text that
differs.
"""

from __future__ import annotations

#: Runs are counted in levels: level i begins at a run of _LEVEL_STARTS[i].
_LEVEL_STARTS = (0, 1, 2, 3, 4, 6, 9, 17, 33, 65)
LEVELS = len(_LEVEL_STARTS)
_LEVEL_OF_RUN = [sum(run >= start for start in _LEVEL_STARTS) - 1 for run in range(_LEVEL_STARTS[-1] + 1)]
#: How many observations the prior weighs.
PRIOR_WEIGHT = 16.0
#: A level that has so many observations halves them, so that new ones count more.
_MAX_OBSERVATIONS = 256.0


class Acceptance:
    """Acceptance rates by level.

    ``prior`` holds where there are few observations: a rate for each level, or another acceptance (of all sequences),
    which then gets this one's observations, too. It weighs as much as ``prior_weight`` observations.
    """

    __slots__ = ("_n_accepted", "_n_observed", "_prior", "_prior_weight")

    def __init__(self, prior: Acceptance | tuple[float, ...], prior_weight: float = PRIOR_WEIGHT) -> None:
        self._prior = prior
        self._prior_weight = prior_weight
        self._n_accepted = [0.0] * LEVELS
        self._n_observed = [0.0] * LEVELS

    def observe(self, run: int, accepted: bool) -> None:
        """After ``run`` right tokens the next one was accepted, or wasn't."""
        level = _LEVEL_OF_RUN[run] if run < _LEVEL_STARTS[-1] else LEVELS - 1
        self._n_accepted[level] += accepted
        self._n_observed[level] += 1.0
        if self._n_observed[level] >= _MAX_OBSERVATIONS:
            self._n_accepted[level] /= 2.0
            self._n_observed[level] /= 2.0
        if isinstance(self._prior, Acceptance):
            self._prior.observe(run, accepted)

    def observe_draft(self, run: int, draft: list[int], sampled: list[int]) -> int:
        """After ``run`` right tokens ``draft`` was proposed, and ``sampled`` was chosen. Returns the run behind it: a
        wrong token leaves a quarter.
        """
        for drafted, token in zip(draft, sampled, strict=False):
            self.observe(run, drafted == token)
            if drafted != token:
                return run // 4
            run += 1
        return run

    def rate(self, run: int) -> float:
        """The acceptance rate of a draft token after ``run`` right ones."""
        return self._level_rate(_LEVEL_OF_RUN[run] if run < _LEVEL_STARTS[-1] else LEVELS - 1)

    def cumulative_rates(self, run: int, count: int) -> list[float]:
        """For each of ``count`` draft tokens the probability that it and all before it are accepted: falling."""
        rates = [self._level_rate(level) for level in range(LEVELS)]
        cumulative, values = 1.0, []
        for length in range(run, run + count):
            cumulative *= rates[_LEVEL_OF_RUN[length] if length < _LEVEL_STARTS[-1] else -1]
            values.append(cumulative)
        return values

    def _level_rate(self, level: int) -> float:
        prior = self._prior._level_rate(level) if isinstance(self._prior, Acceptance) else self._prior[level]
        return (self._n_accepted[level] + self._prior_weight * prior) / (self._n_observed[level] + self._prior_weight)
