"""Measures the model's speed in each weight format of ``--weights``."""

from __future__ import annotations

from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.option_values import compare_values

FORMATS = ("as-is", "near-lossless", "fast")
_STREAMS = (1, 8)


def _measure(options: Options) -> Measurements:
    turns = min(options.turns, 5)
    found = compare_values(options, "--weights", FORMATS, "as-is", _STREAMS, turns=turns, title="Weight formats")
    found.notes.append(
        "tailrace serve --weights; a format that isn't faster on this machine is left for the file as it is."
    )
    return found


BENCHMARK = Benchmark("formats", "How fast is the model in each weight format?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
