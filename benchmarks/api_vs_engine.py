"""Compares the speed at an HTTP client with the speed of the bare engine."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.rates import (
    StatsBySide,
    curve,
    decode_rates,
    measure,
    quartile_step_rates,
    rate_curve,
    total_rates,
)
from benchmarks.harness.results import Plot, figure
from benchmarks.harness.side_process import start_side
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.settings import Settings

STREAMS = (1, 4, 8, 16)
#: Replies of every side in each turn. Many short pairs average out a drift of the machine's speed; few long ones don't.
PAIRS = 3
#: API ÷ engine loop, by streams.
BOUNDS = {1: 0.95, 4: 0.97, 8: 0.97, 16: 0.97}
#: The other sides: their names in ``harness.side_process``, and in a plot's legend.
OTHERS = {"engine": "engine loop", "raw": "bare llama.cpp"}


def run_sides(
    model: Path,
    options: Options,
    streams: Sequence[int],
    tokens: int,
    *,
    prompt: int = 32,
    others: Sequence[str] = tuple(OTHERS),
) -> StatsBySide:
    """Measure the API and ``others`` under the same loads, interleaved.

    Replies have ``tokens`` tokens. Prompts of about ``prompt`` tokens are the same each turn, so the prefix cache has
    them and nearly all of the time is decoding.
    """
    max_streams = max(streams)
    settings = Settings(threads=options.threads, parallel=max_streams, speculate="off")
    with contextlib.ExitStack() as stack:
        other_sides = {
            name: stack.enter_context(start_side(name, model, settings, streams=max_streams, context=512)).run
            for name in others
        }
        api = stack.enter_context(servers.tailrace(model, options.threads, "--parallel", str(max_streams))).run
        # The side of the bound runs next to the API in time.
        first = others[0]
        sides = {first: other_sides.pop(first), "API": api, **other_sides}
        loads = [LoadProfile(streams=count, prompt_tokens=prompt, output_tokens=tokens) for count in streams]
        return measure(sides, loads, PAIRS * options.turns, same_prompts=True)


def findings(
    runs: StatsBySide, tokens: int, bounds: dict[int, float], *, against: str = "engine", long_steps: bool = False
) -> Measurements:
    """The ratios of ``run_sides``; the bounds are for the side ``against``.

    With ``long_steps`` the gaps' lower quartiles are compared, too: a fraction of a millisecond doesn't matter there.
    """
    api = runs["API"]
    others = {name: runs[name] for name in OTHERS if name in runs}
    found = Measurements()
    for count in api:
        several = f"{count} stream{'s' if count > 1 else ''}"
        bound = bounds.get(count)
        for name, side in others.items():
            values = paired_ratios(decode_rates(api[count]), decode_rates(side[count]))
            step = 1e3 * count / statistics.median(decode_rates(side[count]))
            what = f"API ÷ {name}, {several} ({name}'s steps: {step:.1f} ms)"
            found.figures.append(figure(what, values, bound=bound if name == against else None))
        if long_steps:
            values = paired_ratios(quartile_step_rates(api[count]), quartile_step_rates(others[against][count]))
            found.figures.append(figure(f"API ÷ {against}, {several}, lower quartile of the gaps", values))
        values = paired_ratios(total_rates(api[count]), total_rates(others[against][count]))
        found.figures.append(figure(f"API ÷ {against}, {several}, whole time", values))
    found.plots.append(
        Plot(
            title="Throughput against streams",
            x="streams",
            y="tokens a second",
            curves=[rate_curve(name, runs[name]) for name in runs],
        )
    )
    shares = [
        curve(
            f"API ÷ {OTHERS[name]}",
            {count: paired_ratios(decode_rates(api[count]), decode_rates(side[count])) for count in api},
        )
        for name, side in others.items()
    ]
    found.plots.append(
        Plot(
            title="API against engine",
            x="streams",
            y="part of the speed that arrives",
            curves=shares,
            bound=min(bounds.values()),
        )
    )
    found.notes.append(
        f"Replies of {tokens} greedy tokens to short prompts, the same each time; rates while every stream runs; a "
        "ratio is of two successive turns, and the order alternates. engine: the "
        "server's own loop in a process without HTTP; raw: llama_decode and argmax with llama.cpp's defaults. Client, "
        "server and engine share the cores."
    )
    return found


def _measure(options: Options) -> Measurements:
    tokens = options.tokens(64)
    return findings(run_sides(options.model, options, options.streams(STREAMS), tokens), tokens, BOUNDS)


BENCHMARK = Benchmark("api_vs_engine", "How much of the bare engine's speed arrives at a client?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
