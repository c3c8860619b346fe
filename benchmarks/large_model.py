"""Compares API and engine with a model larger than the CPU's caches: 2.4 GB."""

from __future__ import annotations

from benchmarks.api_vs_engine import findings, run_sides
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.synthetic import synthetic

_STREAMS = (1, 4)
_PROMPT = 12
_TOKENS = 24
_BOUNDS = dict.fromkeys(_STREAMS, 0.98)


def _measure(options: Options) -> Measurements:
    model = synthetic("tiny" if options.quick else "large", options.model)
    tokens = options.tokens(_TOKENS)
    runs = run_sides(model, options, _STREAMS, tokens, prompt=_PROMPT)
    found = findings(runs, tokens, _BOUNDS, long_steps=not options.quick)
    found.notes.append(f"The model has random weights in Q4_0: {model.name}, {model.stat().st_size / 1e6:.0f} MB.")
    return found


BENCHMARK = Benchmark(
    "large_model", "How much of llama.cpp's speed arrives with a model of several gigabytes?", _measure
)

if __name__ == "__main__":
    run_alone(BENCHMARK)
