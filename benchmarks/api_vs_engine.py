"""How much of the bare engine's speed arrives at a client."""

from __future__ import annotations

import contextlib
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
_PROMPT = 32


def run_sides(model: Path, options: Options, streams: Sequence[int], tokens: int) -> Runs:
    """API, engine loop and bare llama.cpp under the same loads, in turns."""
    most = max(streams)
    settings = Settings(threads=options.threads, parallel=most, speculate="off")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(servers.tailrace(model, options.threads, "--parallel", str(most)))
        engine = stack.enter_context(working("engine", model, settings))
        raw = stack.enter_context(working("raw", model, settings, streams=most, context=512))
        loads = [Load(streams=count, prompt_tokens=_PROMPT, output_tokens=tokens) for count in streams]
        return measure({"API": api.run, "engine": engine.run, "raw": raw.run}, loads, options.turns)


def findings(runs: Runs, tokens: int, bounds: dict[int, float], *, against: str = "engine") -> Findings:
    """The ratios of ``run_sides``; ``against`` is the side that the bounds are for."""
    api, engine, raw = runs["API"], runs["engine"], runs["raw"]
    found = Findings()
    for count in api:
        step = 1e3 * count / sorted(decode(raw[count]))[len(raw[count]) // 2]
        several = f"{count} stream{'s' if count > 1 else ''}"
        bound = bounds.get(count)
        for name, side in (("engine", engine), ("raw", raw)):
            values = ratios(decode(api[count]), decode(side[count]))
            what = f"API ÷ {name}, {several}" + (f" (steps of {step:.1f} ms)" if name == "engine" else "")
            found.figures.append(figure(what, values, bound=bound if name == against else None))
        found.figures.append(
            figure(f"API ÷ engine, {several}, all of its time", ratios(total(api[count]), total(engine[count])))
        )
    found.plots.append(
        Plot(
            title="Throughput against streams",
            x="streams",
            y="tokens a second",
            curves=[rate_curve(name, runs[name]) for name in runs],
        )
    )
    shares = {count: ratios(decode(api[count]), decode(engine[count])) for count in api}
    against_raw = {count: ratios(decode(api[count]), decode(raw[count])) for count in api}
    found.plots.append(
        Plot(
            title="API against engine",
            x="streams",
            y="part of the speed that arrives",
            curves=[curve("API ÷ engine loop", shares), curve("API ÷ bare llama.cpp", against_raw)],
            bound=min(bounds.values()),
        )
    )
    found.notes.append(
        f"Replies of {tokens} greedy tokens to prompts of about {_PROMPT}; rates while every stream runs. engine: the "
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
