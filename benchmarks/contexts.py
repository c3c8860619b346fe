"""Whether many distinct contexts pay for each other, and whether one request can still have the whole context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.harness import servers
from benchmarks.harness.pairs import ratios
from benchmarks.harness.part import Findings, Options, Part, standalone
from benchmarks.harness.rates import decode, measure
from benchmarks.harness.results import figure
from benchmarks.harness.worker import working
from tailrace.loadtest.client import BenchClient
from tailrace.loadtest.load import Load, StreamTiming
from tailrace.models.model_header import read_facts
from tailrace.settings import Settings

_STREAMS = 8
_BOUND = 0.95

Run = Callable[[Load, int], list[StreamTiming]]


def _measure(options: Options) -> Findings:
    prompt, tokens = (100, 16) if options.quick else (1000, 48)
    load = Load(streams=_STREAMS, prompt_tokens=prompt, output_tokens=tokens)
    settings = Settings(threads=options.threads, parallel=_STREAMS, speculate="off")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(servers.tailrace(options.model, options.threads, "--parallel", str(_STREAMS)))
        engine = stack.enter_context(working("engine", options.model, settings))
        separate = stack.enter_context(working("raw", options.model, settings, streams=_STREAMS))
        unified = stack.enter_context(working("raw", options.model, settings, streams=_STREAMS, unified=True))
        sides = {
            "engine": _prompts_first(engine.run),
            "API": _prompts_first(api.run),
            "separate": separate.run,
            "unified": unified.run,
        }
        runs = measure(sides, [load], min(options.turns, 4))
        whole = _whole_context(api, options)
    rates = {name: decode(entries[_STREAMS]) for name, entries in runs.items()}
    figures = [
        figure("engine ÷ llama.cpp with separate streams", ratios(rates["engine"], rates["separate"]), bound=_BOUND),
        figure("API ÷ llama.cpp with separate streams", ratios(rates["API"], rates["separate"]), bound=_BOUND),
        figure("llama.cpp with one unified cache ÷ separate streams", ratios(rates["unified"], rates["separate"])),
        *(figure(f"{name}, decoding", rates[name], unit="tok/s") for name in rates),
        figure("part of the context that one request got afterwards", [whole], unit="", bound=0.99),
    ]
    notes = [f"{_STREAMS} prompts of about {prompt} tokens that share nothing; replies of {tokens}."]
    return Findings(figures=figures, notes=notes)


def _prompts_first(run: Run) -> Run:
    """``run`` with the prompts read before: replies begin together instead of ending while others' prompts are read."""

    def both(load: Load, turn: int) -> list[StreamTiming]:
        run(Load(streams=load.streams, prompt_tokens=load.prompt_tokens, output_tokens=2), turn)
        return run(load, turn)

    return both


def _whole_context(client: BenchClient, options: Options) -> float:
    """Have one request fill the context of the model; the part of it that its tokens take."""
    context = read_facts(options.model).context or 2048
    reply = 32
    words = context - reply - 64
    (timing,) = client.run(Load(streams=1, prompt_tokens=words, output_tokens=reply), 0)
    return (timing.prompt_tokens + timing.reply_tokens) / context


PART = Part("contexts", "Do distinct long contexts pay for each other?", _measure)

if __name__ == "__main__":
    standalone(PART)
