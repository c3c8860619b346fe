"""How much of the bare engine's speed arrives at a client."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import servers
from benchmarks.harness.pairs import ratios
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.rates import Runs, curve, decode, measure, rate_curve, total
from benchmarks.harness.results import Plot, figure
from benchmarks.harness.worker import working
from tailrace.settings import Settings
from tailrace.tools.load import Load

STREAMS = (1, 4, 8, 16)
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
    ``prompt``.
    """
    most = max(streams)
    settings = Settings(threads=options.threads, parallel=most, speculate="off")
    with contextlib.ExitStack() as stack:
        sides = {"API": stack.enter_context(servers.tailrace(model, options.threads, "--parallel", str(most))).run}
        for name in others:
            sides[name] = stack.enter_context(working(name, model, settings, streams=most, context=512)).run
        loads = [Load(streams=count, prompt_tokens=prompt, output_tokens=tokens) for count in streams]
        return measure(sides, loads, options.turns)


def findings(runs: Runs, tokens: int, bounds: dict[int, float], *, against: str = "engine") -> Findings:
    """The ratios of ``run_sides``; ``against`` is the side that the bounds are for."""
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
        f"Replies of {tokens} greedy tokens to short prompts; rates while every stream runs. engine: the "
        "server's own loop in a process without HTTP; raw: llama_decode and argmax with llama.cpp's defaults. Client, "
        "server and engine share the cores."
    )
    return found


def _measure(options: Options) -> Findings:
    tokens = options.tokens(128)
    return findings(run_sides(options.model, options, options.streams(STREAMS), tokens), tokens, BOUNDS)


PART = Part("api_vs_engine", "How much of the bare engine's speed arrives at a client?", _measure)

if __name__ == "__main__":
    standalone(PART)
