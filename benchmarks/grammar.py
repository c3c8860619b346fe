"""Measures the cost of a grammar: replies with a JSON schema and without, interleaved on one engine loop.

Three sides: no grammar; a grammar whose every token is sampled, which shows the cost of masks; and a grammar as it is
served, with jump-forward tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import figure
from tailrace.engine.load import load_llama, make_loop
from tailrace.engine.sequence import Sequence
from tailrace.engine.structured.constraint import Constraint
from tailrace.engine.structured.grammar_translation import translate
from tailrace.engine.structured.matcher import compile_grammar, make_tokenizer
from tailrace.engine.submission import prepare_sequence
from tailrace.errors import TailraceError
from tailrace.generation_params import GenerationParams, Grammar, Sampling
from tailrace.observe import logs
from tailrace.prompt_text import PromptText
from tailrace.protocol import Refused, Submit
from tailrace.settings import Settings

_STREAMS = (1, 8)
_BOUND = 0.9
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "occupation": {"type": "string", "maxLength": 60},
        "colour": {"enum": ["red", "green", "blue"]},
    },
    "required": ["name", "age", "occupation", "colour"],
    "additionalProperties": False,
}
#: Longer than any reply here.
_SCHEMA = json.dumps({"type": "array", "items": _PERSON, "minItems": 200})


class EngineUnderTest:
    """One loaded model and loop."""

    def __init__(self, options: Options) -> None:
        settings = Settings(threads=options.threads, parallel=max(_STREAMS))
        self._backend = load_llama(options.model, settings)
        self._loop = make_loop(self._backend, settings)
        tokenizer = make_tokenizer(
            self._backend.vocabulary, sorted(self._backend.end_tokens), self._backend.tokenize_fragment
        )
        self._matcher = compile_grammar(tokenizer, translate(Grammar(kind="json_schema", text=_SCHEMA)))
        self._next = 0
        self.forced = 0.0  #: fraction of jump-forward tokens in the last turn with them

    def side(self, streams: int, tokens: int, *, grammar: bool, forced: bool = False) -> Callable[[int], float]:
        """One turn: decoded tokens a second of ``streams`` greedy replies, while all of them run."""

        def turn(number: int) -> float:
            token_times: dict[int, list[float]] = {}
            steps = 0
            for stream in range(streams):
                identity = self._next = self._next + 1
                token_times[identity] = []
                sequence = self._sequence(identity, f"List people of village {number}-{stream} as JSON.", tokens)
                if grammar:
                    matcher = self._matcher.deep_copy()
                    sequence.constraint = Constraint(matcher, len(self._backend.vocabulary), jump_forward=forced)
                self._loop.inbox.put(sequence)
            while self._loop.has_work:
                self._loop.take()
                step = self._loop.step()
                now = time.perf_counter()
                for identity in step.ids if step is not None else ():
                    token_times[identity].append(now)
                steps += len(set(step.ids)) if step is not None else 0
            if forced:
                self.forced = 1 - steps / sum(map(len, token_times.values()))
            start, end = (
                max(times[0] for times in token_times.values()),
                min(times[-1] for times in token_times.values()),
            )
            return sum(start < at <= end for times in token_times.values() for at in times) / (end - start)

        return turn

    def close(self) -> None:
        """Free the model."""
        self._backend.close()

    def _sequence(self, identity: int, prompt: str, tokens: int) -> Sequence:
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        submit = Submit(
            id=identity,
            prompt=PromptText(text),
            params=GenerationParams(max_tokens=tokens, sampling=Sampling(temperature=0.0), ignore_eos=True),
        )
        sequence = prepare_sequence(self._backend, submit)
        if isinstance(sequence, Refused):
            raise TailraceError(sequence.message)
        return sequence


def _measure(options: Options) -> Measurements:
    logs.configure("engine", level="warning", form="console")
    bench = EngineUnderTest(options)
    figures, notes = [], []
    tokens = options.tokens(128)
    try:
        for streams in options.streams(_STREAMS):
            rates = run_interleaved(
                {
                    "none": bench.side(streams, tokens, grammar=False),
                    "chosen": bench.side(streams, tokens, grammar=True),
                    "forced": bench.side(streams, tokens, grammar=True, forced=True),
                },
                options.turns,
            )
            many = f"{streams} stream{'s' if streams > 1 else ''}"
            figures += [
                figure(f"{many}: with a schema ÷ without", paired_ratios(rates["forced"], rates["none"]), bound=_BOUND),
                figure(
                    f"{many}: with every token chosen ÷ without",
                    paired_ratios(rates["chosen"], rates["none"]),
                    bound=_BOUND,
                ),
                figure(f"{many}: without", rates["none"], unit="tok/s"),
                figure(f"{many}: with a schema", rates["forced"], unit="tok/s"),
            ]
            notes.append(f"{many}: {bench.forced:.0%} of the tokens with a schema were forced.")
    finally:
        bench.close()
    return Measurements(figures=figures, notes=notes)


BENCHMARK = Benchmark("grammar", "What does structured output cost?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
