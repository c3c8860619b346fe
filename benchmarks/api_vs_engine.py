"""How much of the bare engine's speed arrives at a client."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import servers
from benchmarks.harness.pairs import ratios
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.rates import Runs, curve, decode, measure, quick_steps, rate_curve, total
from benchmarks.harness.results import Plot, figure
from benchmarks.harness.worker import working
from tailrace.loadtest.load import Load
from tailrace.settings import Settings

STREAMS = (1, 4, 8, 16)
#: Replies of every side for each turn asked for. What a machine's speed does within seconds, many short pairs in
#: succession tell from a difference, and few long ones don't.
PAIRS = 3
#: API ÷ engine loop, by streams.
BOUNDS = {1: 0.95, 4: 0.97, 8: 0.97, 16: 0.97}
#: What the API is compared with, as ``harness.worker`` calls it, and as a legend does.
OTHERS = {"engine": "engine loop", "raw": "bare llama.cpp"}


def run_sides(
    model: Path,
    options: Options,
    streams: Sequence[int],
    tokens: int,
    *,
    prompt: int = 32,
    others: Sequence[str] = tuple(OTHERS),
) -> Runs:
    """The API and ``others`` under the same loads, in turns: replies of so many ``tokens`` to prompts of about
    ``prompt``, the same ones each time, so that no time goes by with reading them.
    """
    most = max(streams)
    settings = Settings(threads=options.threads, parallel=most, speculate="off")
    with contextlib.ExitStack() as stack:
        alone = {
            name: stack.enter_context(working(name, model, settings, streams=most, context=512)).run for name in others
        }
        api = stack.enter_context(servers.tailrace(model, options.threads, "--parallel", str(most))).run
        # Beside the API in time is what it is held against first, and then what else there is.
        first = others[0]
        sides = {first: alone.pop(first), "API": api, **alone}
        loads = [Load(streams=count, prompt_tokens=prompt, output_tokens=tokens) for count in streams]
        return measure(sides, loads, PAIRS * options.turns, same_prompts=True)


def findings(
    runs: Runs, tokens: int, bounds: dict[int, float], *, against: str = "engine", long_steps: bool = False
) -> Findings:
    """The ratios of ``run_sides``; ``against`` is the side that the bounds are for. ``long_steps``: a fraction of a
    millisecond is nothing to them, so that single gaps may be compared too.
    """
    api = runs["API"]
    others = {name: runs[name] for name in OTHERS if name in runs}
    found = Findings()
    for count in api:
        several = f"{count} stream{'s' if count > 1 else ''}"
        bound = bounds.get(count)
        for name, side in others.items():
            values = ratios(decode(api[count]), decode(side[count]))
            step = 1e3 * count / statistics.median(decode(side[count]))
            what = f"API ÷ {name}, {several} ({name}'s steps: {step:.1f} ms)"
            found.figures.append(figure(what, values, bound=bound if name == against else None))
        if long_steps:
            values = ratios(quick_steps(api[count]), quick_steps(others[against][count]))
            found.figures.append(figure(f"API ÷ {against}, {several}, lower quartile of the gaps", values))
        values = ratios(total(api[count]), total(others[against][count]))
        found.figures.append(figure(f"API ÷ {against}, {several}, all of its time", values))
    found.plots.append(
        Plot(
            title="Throughput against streams",
            x="streams",
            y="tokens a second",
            curves=[rate_curve(name, runs[name]) for name in runs],
        )
    )
    shares = [
        curve(f"API ÷ {OTHERS[name]}", {count: ratios(decode(api[count]), decode(side[count])) for count in api})
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
        "ratio is of two turns in succession, and the order turns round each time. engine: the "
        "server's own loop in a process without HTTP; raw: llama_decode and argmax with llama.cpp's defaults. Client, "
        "server and engine share the cores."
    )
    return found


def _measure(options: Options) -> Findings:
    tokens = options.tokens(64)
    return findings(run_sides(options.model, options, options.streams(STREAMS), tokens), tokens, BOUNDS)


PART = Part("api_vs_engine", "How much of the bare engine's speed arrives at a client?", _measure)

if __name__ == "__main__":
    standalone(PART)
