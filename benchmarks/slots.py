"""Measures whether the slots of running sequences affect the speed, after random arrivals and departures."""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.harness import servers
from benchmarks.harness.benchmark import Benchmark, Measurements, Options, run_alone
from benchmarks.harness.paired_runs import paired_ratios, run_interleaved
from benchmarks.harness.results import figure
from tailrace.loadtest.bench_client import BenchClient
from tailrace.loadtest.load_profile import BenchRequest, LoadProfile
from tailrace.loadtest.load_stats import StreamTiming

_SLOTS = 8
_STAYING = 4
#: The staying streams are timed from this token on. All other streams have ended by then.
_TIMED_FROM = 96
_BOUND = 0.97


def make_requests(turn: int, tokens: int) -> tuple[list[BenchRequest], list[BenchRequest]]:
    """The same staying requests, once among requests that come and go, once alone.

    The staying ones are the last of the first list, and the whole second list.
    """
    source = random.Random(turn)
    load = LoadProfile(streams=_SLOTS + 4, prompt_tokens=32, output_tokens=tokens)
    prompts = load.requests(turn)
    staying, passing = prompts[:_STAYING], prompts[_STAYING:]
    # Some requests start first, so that the staying ones get arbitrary slots.
    early = [_brief(ask, source.randint(8, 40), None) for ask in passing[: _SLOTS - _STAYING]]
    first = source.randrange(len(early))
    later = [
        _brief(ask, source.randint(4, 24), (source.randrange(len(early)), source.randint(2, 8)))
        for ask in passing[_SLOTS - _STAYING :]
    ]
    mixed = [_after(ask, (first, source.randint(1, 8))) for ask in staying]
    return [*early, *later, *mixed], staying


def steady_rate(timings: Sequence[StreamTiming]) -> float:
    """Tokens a second of these streams together, from the time when each has its 96th token.

    Raises ValueError when there is no such time.
    """
    start = max(timing.token_times[_TIMED_FROM] for timing in timings)
    end = min(timing.token_times[-1] for timing in timings)
    if end <= start:
        raise ValueError("the streams that stay don't run together")
    within = sum(
        timing.tokens_per_text * sum(start < moment <= end for moment in timing.token_times) for timing in timings
    )
    return within / (end - start)


def _brief(ask: BenchRequest, tokens: int, after: tuple[int, int] | None) -> BenchRequest:
    return BenchRequest(messages=ask.messages, max_tokens=tokens, start_after=after)


def _after(ask: BenchRequest, after: tuple[int, int]) -> BenchRequest:
    return BenchRequest(messages=ask.messages, max_tokens=ask.max_tokens, start_after=after)


def _measure(options: Options) -> Measurements:
    tokens = _TIMED_FROM + 48 + options.tokens(96)
    with servers.tailrace(options.model, options.threads, "--parallel", str(_SLOTS)) as client:
        rates = run_interleaved(
            {
                "mixed": lambda turn: _mixed(client, turn, tokens),
                "packed": lambda turn: steady_rate(client.exchange(make_requests(2 * turn + 1, tokens)[1])),
            },
            options.turns + 2,
        )
    return Measurements(
        figures=[
            figure(
                f"any {_STAYING} of {_SLOTS} slots ÷ {_STAYING} packed ones, decoding",
                paired_ratios(rates["mixed"], rates["packed"]),
                bound=_BOUND,
            ),
            figure("any slots", rates["mixed"], unit="tok/s"),
            figure("packed slots", rates["packed"], unit="tok/s"),
        ],
        notes=[
            f"{_STAYING} requests that stay begin among {_SLOTS} that come and go at random; timed from their token "
            f"{_TIMED_FROM} on, when only they run."
        ],
    )


def _mixed(client: BenchClient, turn: int, tokens: int) -> float:
    mixed, _ = make_requests(2 * turn, tokens)
    return steady_rate(client.exchange(mixed)[-_STAYING:])


BENCHMARK = Benchmark("slots", "Does it matter which slots the running sequences have?", _measure)

if __name__ == "__main__":
    run_alone(BENCHMARK)
