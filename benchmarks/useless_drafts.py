"""What drafting costs where it never pays: replies of a model whose prediction layer is always wrong, in pairs.

    python -m benchmarks.useless_drafts [NAME] [--turns 12] [--streams 1,4,8] [--control]

A figure is the speed with drafts ÷ without, by CPU time, prompts included. Both sides are the engine's loop in this
process, on the same loaded model and one thread. Short replies alternate between them, and a turn's figure is the
quotient of its sums. So the machine's speed changes little within a pair, no process is faster than another one for
its whole life, and a probe now and then counts. ``--control`` compares two sides without drafts.

The model is one of benchmarks.synthetic, or a path.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from rich.console import Console

from benchmarks.harness.benchmark import table
from benchmarks.harness.results import figure
from benchmarks.synthetic import SHAPES, synthetic
from tailrace.engine.backends.base import Backend
from tailrace.engine.load import load_llama
from tailrace.engine.loop import EngineLoop
from tailrace.engine.sequence import Sequence
from tailrace.engine.speculation.prediction_layer import PredictionLayer
from tailrace.engine.speculation.prompt_lookup import LookupDrafter
from tailrace.engine.speculation.speculator import Speculator
from tailrace.engine.submission import prepare_sequence
from tailrace.generation_params import GenerationParams, Sampling
from tailrace.models.model_reference import locate_model
from tailrace.observe import logs
from tailrace.protocol import Submit
from tailrace.settings import STARTER_MODEL, Settings

_BOUND = 0.99
#: Tokens of a prompt and of a reply, and replies of each side in a turn.
_PROMPT = 40
_LENGTH = 32
_REPLIES = 8
#: Prompts have no token in common with this model's special ones.
_FIRST_TOKEN = 1000


class _Side:
    """The loop with one speculator, and the CPU seconds of its replies in the present turn."""

    def __init__(self, backend: Backend, settings: Settings, *, drafts: bool) -> None:
        self._backend = backend
        self._settings = settings
        assert backend.prediction_context is not None, "the model has no prediction layer"
        self._context = backend.prediction_context
        drafters = PredictionLayer(self._context), LookupDrafter()
        self.speculator = Speculator(*drafters, n_draft_max=settings.draft_tokens) if drafts else None
        self.seconds = 0.0

    def reply(self, number: int, streams: int) -> list[list[int]]:
        """Prompts and replies of so many streams at once, other ones for each ``number``."""
        self._backend.reset()
        self._context.collects = False
        loop = EngineLoop(
            self._backend,
            prefill_chunk=self._settings.prefill_chunk,
            step_seconds=1.0,
            host_cache_tokens=0,
            speculator=self.speculator,
        )
        sequences: list[list[int]] = []
        for stream in range(streams):
            identity = 100 * number + stream
            sampling = Sampling(temperature=0.8, seed=identity)
            prompt = [_FIRST_TOKEN + (7919 * identity + 104_729 * place) % 40_000 for place in range(_PROMPT)]
            params = GenerationParams(max_tokens=_LENGTH, ignore_eos=True, sampling=sampling)
            sequence = prepare_sequence(self._backend, Submit(id=identity, prompt=prompt, params=params))
            assert isinstance(sequence, Sequence), "the engine refuses a short prompt"
            sequences.append(sequence.tokens)
            loop.inbox.put(sequence)
        began = time.process_time()
        while loop.has_work:
            loop.take()
            loop.step()
        self.seconds += time.process_time() - began
        return sequences


def _turn(plain: _Side, drafting: _Side, turn: int, streams: int) -> float:
    """The quotient of a turn."""
    plain.seconds = drafting.seconds = 0.0
    for number in range(_REPLIES * turn, _REPLIES * (turn + 1)):
        sides = (plain, drafting) if number % 2 else (drafting, plain)
        first, second = (side.reply(number, streams) for side in sides)
        assert first == second, "drafts have changed a reply"
    return plain.seconds / drafting.seconds


def main() -> None:
    """Measure, and write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.useless_drafts", description="Cost of useless drafts.")
    parser.add_argument("model", nargs="?", default="qwen35-mtp-wrong-small", help="of benchmarks.synthetic, or a path")
    parser.add_argument("--turns", type=int, default=12, help="turns of each number of streams, after one to warm up")
    parser.add_argument("--streams", default="1,4,8", help="replies at once [1,4,8]")
    parser.add_argument("--control", action="store_true", help="compare two sides without drafts")
    options = parser.parse_args()
    logs.configure("useless_drafts", level="warning", form="console")
    named = options.model in SHAPES
    path = synthetic(options.model, locate_model(STARTER_MODEL).path) if named else Path(options.model)
    numbers = [int(text) for text in options.streams.split(",")]
    settings = Settings(ctx=1024, parallel=max(numbers), threads=1, threads_prefill=1)
    backend = load_llama(path, settings)
    plain = _Side(backend, settings, drafts=False)
    drafting = _Side(backend, settings, drafts=not options.control)
    figures = []
    for streams in numbers:
        ratios = [_turn(plain, drafting, turn, streams) for turn in range(1 + options.turns)][1:]
        figures.append(figure(f"drafts ÷ none, {streams} at once", ratios, bound=_BOUND))
    Console().print(table(figures))
    if drafting.speculator is not None:
        counters = drafting.speculator.counters
        print(f"{counters.drafts} drafts, {counters.accepted_tokens} of {counters.draft_tokens} tokens accepted")
    backend.close()


if __name__ == "__main__":
    main()
