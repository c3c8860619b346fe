"""Compares tailrace's kernels with llama.cpp's on the same model file: no model may be slower with them.

Besides the given model there is one of each shape: dense and larger than the caches, a mixture of experts, and a
vocabulary of 262k.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.option_values import compare_values
from benchmarks.synthetic import synthetic

_STREAMS = (1, 4, 8)
#: The model of each shape, and the small model that replaces it with ``--quick``.
_SHAPES = {
    "dense": ("steps", "tiny"),
    "experts": ("experts", "tiny-experts"),
    "vocabulary": ("vocabulary", "tiny-vocabulary"),
}
#: Equal, within the noise of a turn.
_BOUND = 0.97


def _measure(options: Options) -> Measurements:
    found = _compare(options, "", options.turns)
    for shape, (usual, quick) in _SHAPES.items():
        model = synthetic(quick if options.quick else usual, options.model)
        # Long steps vary less, so half the turns suffice.
        more = _compare(replace(options, model=model), f"{shape}, ", max(1, options.turns // 2))
        found.figures += more.figures
        found.plots += more.plots
        found.notes.append(f"{shape} has random weights in Q4_0: {model.name}, {model.stat().st_size / 1e6:.0f} MB.")
    found.notes.append("tailrace serve --kernels on and off; tailrace doctor lists the formats with kernels.")
    return found


def _compare(options: Options, of: str, turns: int) -> Measurements:
    return compare_values(
        options,
        "--kernels",
        ("on", "off"),
        "off",
        options.streams(_STREAMS),
        turns=turns,
        title=f"tailrace's kernels: {of.rstrip(', ') or options.model.stem}",
        bound=_BOUND,
        of=of,
    )


BENCHMARK = Benchmark("kernels", "What do tailrace's kernels gain, and is no model slower with them?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
