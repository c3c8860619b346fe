"""How fast the model is in each weight format that ``--weights`` knows."""

from __future__ import annotations

from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.settings import compare_values

FORMATS = ("as-is", "near-lossless", "fast")
_STREAMS = (1, 8)


def _measure(options: Options) -> Findings:
    turns = min(options.turns, 5)
    found = compare_values(options, "--weights", FORMATS, "as-is", _STREAMS, turns=turns, title="Weight formats")
    found.notes.append(
        "tailrace serve --weights; a format that isn't faster on this machine is left for the file as it is."
    )
    return found


PART = Part("formats", "How fast is the model in each weight format?", _measure)

if __name__ == "__main__":
    standalone(PART)
