"""Several sides under the same loads: their rates, their ratios and the curves of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.harness.pairs import in_turns
from benchmarks.harness.results import Curve
from tailrace.loadtest.client import BenchClient, BenchError
from tailrace.loadtest.load import Figures, Load, StreamTiming, figures

PREFILL_PROMPT = 1000

Runs = dict[str, dict[int, list[Figures]]]  #: side → streams → one entry a turn


def measure(
    sides: Mapping[str, Callable[[Load, int], list[StreamTiming]]],
    loads: Sequence[Load],
    turns: int,
    *,
    same_prompts: bool = False,
) -> Runs:
    """Every side under every load, in turns. ``same_prompts`` in all turns: who keeps prefixes reads them once."""
    runs: Runs = {name: {} for name in sides}
    for load in loads:
        calls = {name: _turn(side, load, same_prompts=same_prompts) for name, side in sides.items()}
        for name, entries in in_turns(calls, turns).items():
            runs[name][load.streams] = entries
    return runs


def _turn(
    side: Callable[[Load, int], list[StreamTiming]], load: Load, *, same_prompts: bool
) -> Callable[[int], Figures]:
    # A turn's number makes its prompts: those of two loads must not begin alike.
    return lambda turn: figures(side(load, 1000 * load.streams + (0 if same_prompts else turn)))


def decode(entries: Sequence[Figures]) -> list[float]:
    """Tokens a second while every stream runs, turn by turn. Raises BenchError when they never ran together."""
    if not all(entry.decode_rate for entry in entries):
        raise BenchError(f"{entries[0].streams} streams never ran together: longer replies are needed")
    return [entry.decode_rate for entry in entries]


def quick_steps(entries: Sequence[Figures]) -> list[float]:
    """Steps a second by the gap that a quarter of all is shorter than, turn by turn: what takes the machine away for a
    moment lengthens others.
    """
    return [1e3 / entry.gap_low for entry in entries]


def total(entries: Sequence[Figures]) -> list[float]:
    """Tokens a second from the first question to the last token, turn by turn."""
    return [entry.total_rate for entry in entries]


def prefill(client: BenchClient, turn: int) -> float:
    """Prompt tokens a second of one prompt of PREFILL_PROMPT tokens, by its first token."""
    (timing,) = client.run(Load(streams=1, prompt_tokens=PREFILL_PROMPT, output_tokens=2), 50_000 + turn)
    return timing.prompt_tokens / (timing.first - timing.asked)


def rate_curve(label: str, runs: Mapping[int, Sequence[Figures]]) -> Curve:
    """Decoding speed against the number of streams."""
    return curve(label, {streams: decode(entries) for streams, entries in runs.items()})


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
