"""Measures whether distinct long contexts slow each other down, and whether one request can fill the whole context."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios
from benchmarks.harness.rates import decode_rates, measure
from benchmarks.harness.results import figure
from benchmarks.harness.side_process import start_side
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import LoadProfile
from tailrace.loadtest.load_stats import StreamTiming
from tailrace.models.model_header import read_facts
from tailrace.settings import Settings

_STREAMS = 8
_BOUND = 0.95

Run = Callable[[LoadProfile, int], list[StreamTiming]]


def _measure(options: Options) -> Measurements:
    prompt, tokens = (100, 16) if options.quick else (1000, 48)
    load = LoadProfile(streams=_STREAMS, prompt_tokens=prompt, output_tokens=tokens)
    settings = Settings(threads=options.threads, parallel=_STREAMS, speculate="off")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(servers.tailrace(options.model, options.threads, "--parallel", str(_STREAMS)))
        engine = stack.enter_context(start_side("engine", options.model, settings))
        separate = stack.enter_context(start_side("raw", options.model, settings, streams=_STREAMS))
        unified = stack.enter_context(start_side("raw", options.model, settings, streams=_STREAMS, unified=True))
        sides = {
            "engine": _prompts_first(engine.run),
            "API": _prompts_first(api.run),
            "separate": separate.run,
            "unified": unified.run,
        }
        runs = measure(sides, [load], min(options.turns, 4))
        whole = _whole_context(api, options)
    rates = {name: decode_rates(entries[_STREAMS]) for name, entries in runs.items()}
    figures = [
        figure(
            "engine ÷ llama.cpp with separate streams", paired_ratios(rates["engine"], rates["separate"]), bound=_BOUND
        ),
        figure("API ÷ llama.cpp with separate streams", paired_ratios(rates["API"], rates["separate"]), bound=_BOUND),
        figure(
            "llama.cpp with one unified cache ÷ separate streams", paired_ratios(rates["unified"], rates["separate"])
        ),
        *(figure(f"{name}, decoding", rates[name], unit="tok/s") for name in rates),
        figure("fraction of the context that one request got afterwards", [whole], unit="", bound=0.99),
    ]
    notes = [f"{_STREAMS} prompts of about {prompt} tokens that share nothing; replies of {tokens}."]
    return Measurements(figures=figures, notes=notes)


def _prompts_first(run: Run) -> Run:
    """``run`` after a run that prefills the same prompts, so that all replies decode at the same time."""

    def prefill_and_run(load: LoadProfile, turn: int) -> list[StreamTiming]:
        run(LoadProfile(streams=load.streams, prompt_tokens=load.prompt_tokens, output_tokens=2), turn)
        return run(load, turn)

    return prefill_and_run


def _whole_context(client: BenchClient, options: Options) -> float:
    """Fill the model's context with one request. Returns the fraction of the context that its tokens take."""
    context = read_facts(options.model).context or 2048
    reply = 32
    words = context - reply - 64
    (timing,) = client.run(LoadProfile(streams=1, prompt_tokens=words, output_tokens=reply), 0)
    return (timing.prompt_tokens + timing.reply_tokens) / context


BENCHMARK = Benchmark("contexts", "Do distinct long contexts pay for each other?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
