"""Measures whether a large max_tokens costs time: the same greedy reply with a small limit and with the whole context.

The reply ends below the small limit, so both sides do the same work. The ratio of their times should be 1.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, Unavailable, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest
from tailrace.loadtest.load_stats import StreamTiming
from tailrace.models.model_header import read_facts

_SMALL = 64
_BOUND = 1.01
#: The first prompt whose reply ends below the limit is used. It depends on the model, and through rounding on the CPU.
_PROMPTS = (
    "What is the capital of France?",
    "Name three colours of a rainbow.",
    "Write one sentence about the sea.",
    "Name a fruit and its colour.",
    "Describe a cat in one sentence.",
    "Why is the sky blue? Answer in one sentence.",
    "Say hello in one short sentence.",
    "How many days are in a week?",
)


def _measure(options: Options) -> Measurements:
    with servers.tailrace(options.model, options.threads) as client:
        prompt, first = _short_reply(client)
        whole = (read_facts(options.model).context or 8192) - first.prompt_tokens

        def side(limit: int) -> Callable[[int], float]:
            def ask(_: int) -> float:
                timing = _ask(client, prompt, limit)
                assert timing.text == first.text, "a greedy reply has changed with max_tokens"
                return timing.token_times[-1] - timing.sent_at

            return ask

        # A reply takes a fraction of a second, so many turns are cheap.
        times = run_interleaved({"small": side(_SMALL), "whole": side(whole)}, 6 * options.turns, warm_up=2)
    return Measurements(
        figures=[
            figure(
                f"time with max_tokens {whole} ÷ with {_SMALL}",
                paired_ratios(times["whole"], times["small"]),
                bound=_BOUND,
                is_upper_bound=True,
            )
        ],
        notes=[f"{first.reply_tokens} tokens answer {prompt!r}; one stream; the text is the same with both limits."],
    )


def _short_reply(client: BenchClient) -> tuple[str, StreamTiming]:
    for prompt in _PROMPTS:
        # Twice: the prefix cache changes the size of the prefill batch, and so the rounding.
        _ask(client, prompt, _SMALL)
        timing = _ask(client, prompt, _SMALL)
        if 16 <= timing.reply_tokens < _SMALL:
            return prompt, timing
    raise Unavailable(f"this model gives none of the prompts a reply of 16 to {_SMALL} tokens")


def _ask(client: BenchClient, prompt: str, limit: int) -> StreamTiming:
    (timing,) = client.exchange(
        [BenchRequest(messages=[{"role": "user", "content": prompt}], max_tokens=limit, exact_length=False)]
    )
    return timing


BENCHMARK = Benchmark("max_tokens", "Does a large max_tokens cost anything?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
