"""What the kernels of our own give against llama.cpp's, the same file on either side."""

from __future__ import annotations

from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.settings import compare_values

_STREAMS = (1, 4, 8)


def _measure(options: Options) -> Findings:
    found = compare_values(
        options, "--kernels", ("on", "off"), "off", _STREAMS, turns=options.turns, title="Kernels of our own"
    )
    found.notes.append("tailrace serve --kernels on and off; tailrace doctor tells for which formats there are any.")
    return found


PART = Part("kernels", "What do the kernels of our own give?", _measure)

if __name__ == "__main__":
    standalone(PART)
