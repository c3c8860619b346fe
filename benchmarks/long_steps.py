"""How much of the engine's speed arrives at a client where a step takes 20 ms or more: a model of 825 MB.

Such a step reads prompts slowly too: with prompts as long as elsewhere most of the time would go by before all streams
run. So they are short, and llama.cpp alone, which nothing is claimed about here, takes no part.
"""

from __future__ import annotations

from benchmarks.api_vs_engine import STREAMS, findings, run_sides
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.synthetic import synthetic

_PROMPT = 12
_TOKENS = 24
_BOUNDS = dict.fromkeys(STREAMS, 0.98)


def _measure(options: Options) -> Findings:
    model = synthetic("tiny" if options.quick else "steps", options.model)
    tokens = options.tokens(_TOKENS)
    runs = run_sides(model, options, options.streams(STREAMS), tokens, prompt=_PROMPT, others=("engine",))
    found = findings(runs, tokens, _BOUNDS, long_steps=not options.quick)
    found.notes.append(f"The model has random weights in Q4_0: {model.name}, {model.stat().st_size / 1e6:.0f} MB.")
    return found


PART = Part("long_steps", "How much of the engine's speed arrives where a step takes 20 ms or more?", _measure)

if __name__ == "__main__":
    standalone(PART)
