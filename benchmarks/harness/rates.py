"""Measures several sides under the same loads, and takes rates and curves from the statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.harness.paired_runs import run_interleaved
from benchmarks.harness.results import Curve
from tailrace.loadtest.bench_client import BenchClient, BenchError
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import LoadStats, StreamTiming, load_stats

PREFILL_PROMPT = 1000

StatsBySide = dict[str, dict[int, list[LoadStats]]]  #: side → streams → the statistics of each turn


def measure(
    sides: Mapping[str, Callable[[LoadProfile, int], list[StreamTiming]]],
    loads: Sequence[LoadProfile],
    turns: int,
    *,
    same_prompts: bool = False,
) -> StatsBySide:
    """Measure every side under every load, interleaved.

    With ``same_prompts`` all turns have the same prompts, so a prefix cache leaves almost only decoding.
    """
    runs: StatsBySide = {name: {} for name in sides}
    for load in loads:
        calls = {name: _turn(side, load, same_prompts=same_prompts) for name, side in sides.items()}
        for name, entries in run_interleaved(calls, turns).items():
            runs[name][load.streams] = entries
    return runs


def _turn(
    side: Callable[[LoadProfile, int], list[StreamTiming]], load: LoadProfile, *, same_prompts: bool
) -> Callable[[int], LoadStats]:
    # The turn's number seeds the prompts: two loads must not share prefixes.
    return lambda turn: load_stats(side(load, 1000 * load.streams + (0 if same_prompts else turn)))


def decode_rates(entries: Sequence[LoadStats]) -> list[float]:
    """Tokens a second while every stream decodes, for each turn. Raises BenchError when there is no such time."""
    if not all(entry.decode_rate for entry in entries):
        raise BenchError(f"{entries[0].streams} streams never ran together: longer replies are needed")
    return [entry.decode_rate for entry in entries]


def quartile_step_rates(entries: Sequence[LoadStats]) -> list[float]:
    """Steps a second by the lower quartile of the gaps, for each turn. Other processes lengthen the longer gaps."""
    return [1e3 / entry.gap_low for entry in entries]


def total_rates(entries: Sequence[LoadStats]) -> list[float]:
    """Tokens a second from the first request to the last token, for each turn."""
    return [entry.total_rate for entry in entries]


def prefill_rate(client: BenchClient, turn: int) -> float:
    """Prompt tokens a second of one prompt of PREFILL_PROMPT tokens, by its first token."""
    (timing,) = client.run(LoadProfile(streams=1, prompt_tokens=PREFILL_PROMPT, output_tokens=2), 50_000 + turn)
    return timing.prompt_tokens / timing.first_token_seconds


def rate_curve(label: str, runs: Mapping[int, Sequence[LoadStats]]) -> Curve:
    """Decoding speed against the number of streams."""
    return curve(label, {streams: decode_rates(entries) for streams, entries in runs.items()})


def curve(label: str, values: Mapping[int, Sequence[float]]) -> Curve:
    """Medians with their ranges."""
    ordered = {x: sorted(values[x]) for x in sorted(values)}
    return Curve(
        label=label,
        x=[float(x) for x in ordered],
        y=[y[len(y) // 2] for y in ordered.values()],
        low=[y[0] for y in ordered.values()],
        high=[y[-1] for y in ordered.values()],
    )
