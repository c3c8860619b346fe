"""The figures of running streams while states move beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Protocol

from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.results import Figure, figure
from tailrace.loadtest.load_stats import percentile

#: The 99th percentile of the gaps is at most so many times the median gap without moves.
BOUND = 3.0
#: No gap may be longer than this, in milliseconds.
GAP_BOUND = 100


class MovingTurn(Protocol):
    """One turn. Gaps are in milliseconds."""

    gaps_during: list[float]
    gaps_without: list[float]  #: at the same positions of the same replies, without moves
    cached_tokens: int  #: of the last prompt, in the prefix cache
    prefill_seconds: float  #: to its first token


def move_figures(what: str, turns: Sequence[MovingTurn], *, bounds_longest: bool = True) -> list[Figure]:
    """The figures of all turns. ``what`` says where and what moved. ``bounds_longest``: whether the longest gap has a
    bound.
    """
    worst = [percentile(turn.gaps_during, 0.99) for turn in turns]
    without = [statistics.median(turn.gaps_without) for turn in turns]
    bound = GAP_BOUND if bounds_longest else None
    return [
        figure(
            f"{what}, p99 gap ÷ median gap of replies as long without them",
            paired_ratios(worst, without),
            bound=BOUND,
            is_upper_bound=True,
        ),
        figure(
            f"{what}, longest gap",
            [max(turn.gaps_during) for turn in turns],
            unit="ms",
            bound=bound,
            is_upper_bound=True,
        ),
        figure(f"{what}, p99 gap", worst, unit="ms"),
        figure(f"{what}, median gap of replies as long without them", without, unit="ms"),
        figure(f"{what}, the first one's next turn: first token", [turn.prefill_seconds for turn in turns], unit="s"),
        figure(f"{what}, its tokens from the cache", [turn.cached_tokens for turn in turns], unit="tokens"),
    ]
