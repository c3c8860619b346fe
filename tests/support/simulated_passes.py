"""A speculator whose steps have simulated durations: whether it drafts is then certain."""

from __future__ import annotations

from collections.abc import Callable

from tailrace.engine.speculation.drafter import Drafter
from tailrace.engine.speculation.speculator import Speculator

#: Seconds of a pass by its number of tokens.
PassSeconds = Callable[[int], float]


def memory_bound(n_tokens: int) -> float:
    """The weights are read once, however many tokens there are."""
    return 1.0


def slightly_compute_bound(n_tokens: int) -> float:
    """Another token costs a twentieth of a pass."""
    return 1.0 + 0.05 * n_tokens


def compute_bound(n_tokens: int) -> float:
    """Each token costs the same."""
    return float(n_tokens)


class SimulatedSpeculator(Speculator):
    """A speculator with the pass times of ``pass_seconds``."""

    def __init__(
        self, drafter: Drafter, pass_seconds: PassSeconds, *, n_draft_max: int = 16, others: tuple[Drafter, ...] = ()
    ) -> None:
        super().__init__(drafter, *others, n_draft_max=n_draft_max)
        self.pass_seconds = pass_seconds

    def observe(self, token_counts: list[int], n_decoding: int, seconds: float) -> None:
        """See ``Speculator``; ``seconds`` is replaced."""
        super().observe(token_counts, n_decoding, self.pass_seconds(sum(token_counts)))
