"""What the kernels of our own give against llama.cpp's, the same file on either side: no model may be slower with them.

Besides the model that is asked for, one of each shape: dense and larger than caches, a mixture of experts, and a
vocabulary of 262k.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.settings import compare_values
from benchmarks.synthetic import synthetic

_STREAMS = (1, 4, 8)
#: Shape, and the small one that takes its place where it is only to be seen that all runs.
_SHAPES = {
    "dense": ("steps", "tiny"),
    "experts": ("experts", "tiny-experts"),
    "vocabulary": ("vocabulary", "tiny-vocabulary"),
}
#: Level, but for what a turn's figures differ by anyway.
_BOUND = 0.97


def _measure(options: Options) -> Findings:
    found = _compare(options, "", options.turns)
    for shape, (usual, quick) in _SHAPES.items():
        model = synthetic(quick if options.quick else usual, options.model)
        # Their steps are long: half as many turns say as much.
        more = _compare(replace(options, model=model), f"{shape}, ", max(1, options.turns // 2))
        found.figures += more.figures
        found.plots += more.plots
        found.notes.append(f"{shape} has random weights in Q4_0: {model.name}, {model.stat().st_size / 1e6:.0f} MB.")
    found.notes.append("tailrace serve --kernels on and off; tailrace doctor tells for which formats there are any.")
    return found


def _compare(options: Options, of: str, turns: int) -> Findings:
    return compare_values(
        options,
        "--kernels",
        ("on", "off"),
        "off",
        options.streams(_STREAMS),
        turns=turns,
        title=f"Kernels of our own: {of.rstrip(', ') or options.model.stem}",
        bound=_BOUND,
        of=of,
    )


PART = Part("kernels", "What do the kernels of our own give, and is no model slower with them?", _measure)

if __name__ == "__main__":
    standalone(PART)
