"""Compares API and engine where a step takes 20 ms or more: a model of 825 MB.

Such a model also prefills slowly, so prompts are short: else most of the time would pass before all streams run.
llama.cpp alone isn't measured here.
"""

from __future__ import annotations

from benchmarks.api_vs_engine import STREAMS, findings, run_sides
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.synthetic import synthetic

_PROMPT = 12
_TOKENS = 24
_BOUNDS = dict.fromkeys(STREAMS, 0.98)


def _measure(options: Options) -> Measurements:
    model = synthetic("tiny" if options.quick else "steps", options.model)
    tokens = options.tokens(_TOKENS)
    runs = run_sides(model, options, options.streams(STREAMS), tokens, prompt=_PROMPT, others=("engine",))
    found = findings(runs, tokens, _BOUNDS, long_steps=not options.quick)
    found.notes.append(f"The model has random weights in Q4_0: {model.name}, {model.stat().st_size / 1e6:.0f} MB.")
    return found


BENCHMARK = Benchmark(
    "long_steps", "How much of the engine's speed arrives where a step takes 20 ms or more?", _measure
)

if __name__ == "__main__":
    run_alone(BENCHMARK)
